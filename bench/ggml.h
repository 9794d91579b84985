// SPDX-License-Identifier: Apache-2.0
//
// ggml's `gated_delta_net` on a CPU, out of the libraries that a folder holds:
// they are loaded at run time, so that nothing of them is built or kept here.
//
// Threads: one caller; ggml starts its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/mixers/buffer.h"

namespace weir::bench {

struct DeltaShape {
  int64_t dim = 0;  // K = V
  int64_t heads = 0;
  int64_t tokens = 0;  // of each row
  int64_t rows = 0;
};

// Inputs as the recurrence of engine/kernels takes them, but for the decay,
// which is natural: all [row, token, head, dim] or [row, token, head].
struct DeltaInputs {
  const float* q = nullptr;  // not scaled
  const float* k = nullptr;
  const float* v = nullptr;
  const float* log_decay = nullptr;
  const float* beta = nullptr;
};

class GgmlDeltaNet {
 public:
  // FAILED_PRECONDITION if the folder's libraries have no such operator.
  static absl::StatusOr<std::unique_ptr<GgmlDeltaNet>> Create(
      const std::string& folder,
      const DeltaShape& shape,
      const DeltaInputs& inputs);
  ~GgmlDeltaNet();

  // One step of the operator from states of zero: from what it was given into
  // memory of its own, as it works. Returns o [row, token, head, dim], good
  // until the next call.
  absl::StatusOr<const float*> Step(int threads);

  std::string version() const;
  bool has_avx512() const;

 private:
  struct Library;

  GgmlDeltaNet();

  std::unique_ptr<Library> library_;
  engine::Buffer memory_;
  void* context_ = nullptr;
  void* graph_ = nullptr;
  void* result_ = nullptr;
};

}  // namespace weir::bench
