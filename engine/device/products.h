// SPDX-License-Identifier: Apache-2.0
//
// The matrix products of a model on a GPU: few tokens by small_product.h, more
// by cuBLASLt. Which, and how cuBLASLt goes about it, follows from the shapes
// alone: the same batch gives the same bits in every process on the same card.
//
// Products are made for a padded number of tokens: up to PaddedTokens() rows of
// x are read and of y written, and must lie in memory.
//
// Threads: the step thread; work is put on the given stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/cublaslt.h"
#include "engine/device/device_memory.h"
#include "engine/kernels/cuda/small_product.h"

namespace weir::engine {

// Rows that a product of so many touches.
int64_t PaddedTokens(int64_t tokens);

class Products {
 public:
  // fp32: TF32 stays off.
  static absl::StatusOr<std::unique_ptr<Products>> Create(StateNumber number);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  StateNumber number() const { return number_; }

  // REQUIRES: IsSmallProduct(args), or a source of rows and a target that is
  // not kSilu. INTERNAL.
  absl::Status Multiply(const ProductArgs& args, cudaStream_t stream);
  // The same by the library alone, for benchmarks.
  absl::Status MultiplyByLibrary(const ProductArgs& args, cudaStream_t stream);

 private:
  // How cuBLASLt makes one product.
  struct Way {
    const CublasLt& library;
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t weight = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t y = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};

    explicit Way(const CublasLt* functions) : library(*functions) {}
    ~Way();
    Way(const Way&) = delete;
    Way& operator=(const Way&) = delete;
  };
  // inputs, outputs, padded tokens, strides, target.
  using Key =
      std::tuple<int32_t, int32_t, int64_t, int64_t, int64_t, ProductTarget>;

  Products(StateNumber number, const CublasLt* library)
      : number_(number), library_(*library) {}
  absl::StatusOr<const Way*> WayOf(const ProductArgs& args);

  const StateNumber number_;
  const CublasLt& library_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceMemory workspace_;
  std::map<Key, std::unique_ptr<Way>> ways_;
};

}  // namespace weir::engine
