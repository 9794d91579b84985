// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cublaslt.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace weir::engine {
namespace {

#define WEIR_STRING(x) WEIR_STRING_INNER(x)
#define WEIR_STRING_INNER(x) #x
// The one whose header this is built with.
constexpr char kLibrary[] = "libcublasLt.so." WEIR_STRING(CUBLAS_VER_MAJOR);

// A library and what of it was not found first.
class Names {
 public:
  Names() : library_(dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) error_ = dlerror();
  }

  template <typename Function>
  void Find(const char* name, Function& function) {
    if (library_ == nullptr) return;
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr && error_.empty()) error_ = dlerror();
  }
  const std::string& error() const { return error_; }

 private:
  void* const library_;
  std::string error_;
};

struct Loaded {
  CublasLt functions;
  std::string error;
};

Loaded LoadAll() {
  Names names;
  Loaded loaded;
  CublasLt& to = loaded.functions;
  names.Find("cublasLtCreate", to.Create);
  names.Find("cublasLtDestroy", to.Destroy);
  names.Find("cublasLtGetStatusString", to.GetStatusString);
  names.Find("cublasLtMatmul", to.Matmul);
  names.Find("cublasLtMatmulAlgoGetHeuristic", to.MatmulAlgoGetHeuristic);
  names.Find("cublasLtMatmulDescCreate", to.MatmulDescCreate);
  names.Find("cublasLtMatmulDescDestroy", to.MatmulDescDestroy);
  names.Find("cublasLtMatmulDescSetAttribute", to.MatmulDescSetAttribute);
  names.Find("cublasLtMatmulPreferenceCreate", to.MatmulPreferenceCreate);
  names.Find("cublasLtMatmulPreferenceDestroy", to.MatmulPreferenceDestroy);
  names.Find("cublasLtMatmulPreferenceSetAttribute",
             to.MatmulPreferenceSetAttribute);
  names.Find("cublasLtMatrixLayoutCreate", to.MatrixLayoutCreate);
  names.Find("cublasLtMatrixLayoutDestroy", to.MatrixLayoutDestroy);
  loaded.error = names.error();
  return loaded;
}

}  // namespace

absl::StatusOr<const CublasLt*> CublasLt::Load() {
  static const Loaded loaded = LoadAll();
  if (loaded.error.empty()) return &loaded.functions;
  return absl::UnimplementedError(
      absl::StrCat("a GPU's products need cuBLASLt: ",
                   loaded.error,
                   "; say in LD_LIBRARY_PATH where CUDA's libraries are"));
}

}  // namespace weir::engine
