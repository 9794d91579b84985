// SPDX-License-Identifier: Apache-2.0
#include "bench/ggml.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>

#include "base/status_macros.h"

namespace weir::bench {
namespace {

constexpr int kF32 = 0;  // GGML_TYPE_F32
// What a context, a graph and the tensors' heads need beside the values.
constexpr int64_t kHeadBytes = int64_t{1} << 20;

struct InitParams {  // ggml_init_params
  size_t mem_size;
  void* mem_buffer;
  bool no_alloc;
};

}  // namespace

// The part of ggml's interface that is used, with opaque pointers.
struct GgmlDeltaNet::Library {
  void* (*init)(InitParams);
  void (*free)(void*);
  void* (*new_tensor)(void*, int, int64_t, int64_t, int64_t, int64_t);
  void* (*delta)(void*, void*, void*, void*, void*, void*, void*, int64_t);
  void* (*new_graph)(void*);
  void (*expand)(void*, void*);
  void* (*data)(const void*);
  const char* (*version)();
  int (*compute)(void*, void*, int);
  int (*has_avx512)();
};

namespace {

template <typename Function>
absl::Status Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(std::string("ggml has no ") + name);
}

// It stays loaded: a library with threads may not be taken away.
absl::StatusOr<void*> Open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return absl::NotFoundError(dlerror());
  return library;
}

}  // namespace

GgmlDeltaNet::GgmlDeltaNet() = default;

GgmlDeltaNet::~GgmlDeltaNet() {
  if (context_ != nullptr) library_->free(context_);
}

absl::StatusOr<std::unique_ptr<GgmlDeltaNet>> GgmlDeltaNet::Create(
    const std::string& folder,
    const DeltaShape& shape,
    const DeltaInputs& inputs) {
  WEIR_ASSIGN_OR_RETURN(void* const base, Open(folder + "/libggml-base.so"));
  WEIR_ASSIGN_OR_RETURN(void* const cpu, Open(folder + "/libggml-cpu.so"));
  std::unique_ptr<GgmlDeltaNet> net(new GgmlDeltaNet);
  net->library_ = std::make_unique<Library>();
  Library& ggml = *net->library_;
  for (const absl::Status& status :
       {Find(base, "ggml_init", ggml.init),
        Find(base, "ggml_free", ggml.free),
        Find(base, "ggml_new_tensor_4d", ggml.new_tensor),
        Find(base, "ggml_gated_delta_net", ggml.delta),
        Find(base, "ggml_new_graph", ggml.new_graph),
        Find(base, "ggml_build_forward_expand", ggml.expand),
        Find(base, "ggml_get_data", ggml.data),
        Find(base, "ggml_version", ggml.version),
        Find(cpu, "ggml_graph_compute_with_ctx", ggml.compute),
        Find(cpu, "ggml_cpu_has_avx512", ggml.has_avx512)}) {
    WEIR_RETURN_IF_ERROR(status);
  }

  const int64_t head_tokens = shape.heads * shape.tokens * shape.rows;
  const int64_t values = head_tokens * shape.dim;
  const int64_t state = shape.dim * shape.dim * shape.heads * shape.rows;
  // In and out: three inputs and the result, two states; work space.
  const int64_t floats = 5 * values + 2 * head_tokens + 2 * state;
  net->memory_ = engine::Buffer(floats + kHeadBytes + values / 2);
  WEIR_RETURN_IF_ERROR(net->memory_.Allocate());
  net->context_ = ggml.init({static_cast<size_t>(net->memory_.size()) * 4,
                             net->memory_.data(),
                             false});
  const auto tensor = [&](int64_t first, const float* from) {
    void* made = ggml.new_tensor(
        net->context_, kF32, first, shape.heads, shape.tokens, shape.rows);
    std::copy_n(
        from, first * head_tokens, static_cast<float*>(ggml.data(made)));
    return made;
  };
  void* q = tensor(shape.dim, inputs.q);
  void* k = tensor(shape.dim, inputs.k);
  void* v = tensor(shape.dim, inputs.v);
  void* g = tensor(1, inputs.log_decay);
  void* beta = tensor(1, inputs.beta);
  void* before = ggml.new_tensor(
      net->context_, kF32, shape.dim, shape.dim, shape.heads, shape.rows);
  std::fill_n(static_cast<float*>(ggml.data(before)), state, 0.0F);
  net->result_ = ggml.delta(net->context_, q, k, v, g, beta, before, 1);
  net->graph_ = ggml.new_graph(net->context_);
  ggml.expand(net->graph_, net->result_);
  return net;
}

absl::StatusOr<const float*> GgmlDeltaNet::Step(int threads) {
  if (library_->compute(context_, graph_, threads) != 0) {
    return absl::InternalError("ggml could not compute");
  }
  return static_cast<const float*>(library_->data(result_));
}

std::string GgmlDeltaNet::version() const { return library_->version(); }

bool GgmlDeltaNet::has_avx512() const { return library_->has_avx512() != 0; }

}  // namespace weir::bench
