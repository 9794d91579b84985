// SPDX-License-Identifier: Apache-2.0
//
// What torch's own matrix products take for a model's matrices: the bound that
// the engine is held against.
//
// Threads: one caller; torch's own threads do the work.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace weir::bench {

// How many threads torch, and with it the engine's loops, use from now on.
void SetTorchThreads(int threads);

struct MatrixShape {
  int64_t outputs = 0;
  int64_t inputs = 0;
};

class TorchProducts {
 public:
  // Random matrices of these shapes, fp32, each its own memory.
  explicit TorchProducts(const std::vector<MatrixShape>& shapes);
  ~TorchProducts();

  // Seconds for one product of each matrix with `rows` vectors: at::mv_out for
  // one row, at::mm_out for more.
  double Seconds(int64_t rows);

  // Bytes of all the matrices.
  int64_t bytes() const;

 private:
  struct Tensors;
  std::unique_ptr<Tensors> tensors_;
};

}  // namespace weir::bench
