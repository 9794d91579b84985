// SPDX-License-Identifier: Apache-2.0
#include "bench/torch_rates.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/randn.h>

#include <chrono>

namespace weir::bench {

void SetTorchThreads(int threads) { at::set_num_threads(threads); }

struct TorchProducts::Tensors {
  std::vector<at::Tensor> matrices;
};

TorchProducts::TorchProducts(const std::vector<MatrixShape>& shapes)
    : tensors_(std::make_unique<Tensors>()) {
  for (const MatrixShape& shape : shapes) {
    tensors_->matrices.push_back(at::randn({shape.outputs, shape.inputs}));
  }
}

TorchProducts::~TorchProducts() = default;

double TorchProducts::Seconds(int64_t rows) {
  // Inputs and outputs are made before the clock starts.
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  for (const at::Tensor& matrix : tensors_->matrices) {
    if (rows == 1) {
      inputs.push_back(at::randn({matrix.size(1)}));
      outputs.push_back(at::empty({matrix.size(0)}));
    } else {
      inputs.push_back(at::randn({rows, matrix.size(1)}));
      outputs.push_back(at::empty({rows, matrix.size(0)}));
    }
  }
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor& matrix = tensors_->matrices[i];
    if (rows == 1) {
      at::mv_out(outputs[i], matrix, inputs[i]);
    } else {
      at::mm_out(outputs[i], inputs[i], matrix.t());
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

int64_t TorchProducts::bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor& matrix : tensors_->matrices) {
    bytes += matrix.numel() * 4;
  }
  return bytes;
}

}  // namespace weir::bench
