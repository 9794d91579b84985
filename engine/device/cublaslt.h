// SPDX-License-Identifier: Apache-2.0
//
// cuBLASLt, found when a GPU is to be used and not when the program starts: a
// machine without one need not have it, and its 92 KiB of thread-local memory
// would count against the stack of every thread, which the metrics page's
// threads have not room for.
//
// Threads: any.
#pragma once

#include <cublasLt.h>

#include "absl/status/statusor.h"

namespace weir::engine {

// The functions that products use, by their names without "cublasLt".
struct CublasLt {
  // UNIMPLEMENTED with the library's name and why it is not to be had. The
  // functions stay as long as the process.
  static absl::StatusOr<const CublasLt*> Load();

  decltype(&cublasLtCreate) Create = nullptr;
  decltype(&cublasLtDestroy) Destroy = nullptr;
  decltype(&cublasLtGetStatusString) GetStatusString = nullptr;
  decltype(&cublasLtMatmul) Matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) MatmulDescCreate = nullptr;
  decltype(&cublasLtMatmulDescDestroy) MatmulDescDestroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute =
      nullptr;
  decltype(&cublasLtMatrixLayoutCreate) MatrixLayoutCreate = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy = nullptr;
};

}  // namespace weir::engine
