// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/linear.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/mixers/parallel.h"

namespace weir::engine {
namespace {

// The library takes pointers to constant data as it takes all others.
at::Tensor View(const float* data, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(data), shape, at::kFloat);
}

// With this many rows, and weights beyond the caches, the library is faster at
// W x^T than at x W^T, by half at 16 rows, which more than pays for turning x
// and y around.
constexpr int64_t kTurnedTokensMin = 4;
constexpr int64_t kTurnedTokensMax = 32;
constexpr int64_t kTurnedWeightsMin = int64_t{1} << 19;
constexpr int64_t kBlock = 16;  // a cache line of floats

// to [columns, rows] = from [rows][columns]^T.
void Transpose(TokenRows from, int64_t rows, int64_t columns, float* to) {
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  ParallelFor(blocks, kBlock * columns, [&](int64_t begin, int64_t end) {
    const int64_t last_row = std::min(end * kBlock, rows);
    for (int64_t row = begin * kBlock; row < last_row; row += kBlock) {
      const int64_t row_end = std::min(row + kBlock, last_row);
      for (int64_t column = 0; column < columns; ++column) {
        for (int64_t r = row; r < row_end; ++r) {
          to[column * rows + r] = from.data[r * from.stride + column];
        }
      }
    }
  });
}

// y^T = W x^T.
void MatMulTurned(TokenRows x,
                  int64_t tokens,
                  int64_t inputs,
                  const at::Tensor& w,
                  int64_t outputs,
                  float* y) {
  // One for each thread that runs steps; they grow to the largest product.
  thread_local std::vector<float> x_turned;
  thread_local std::vector<float> y_turned;
  x_turned.resize(std::max<size_t>(x_turned.size(), inputs * tokens));
  y_turned.resize(std::max<size_t>(y_turned.size(), outputs * tokens));
  Transpose(x, tokens, inputs, x_turned.data());
  at::Tensor out = View(y_turned.data(), {outputs, tokens});
  at::mm_out(out, w, View(x_turned.data(), {inputs, tokens}));
  Transpose({y_turned.data(), tokens}, outputs, tokens, y);
}

void AddBias(const float* bias, int64_t tokens, int64_t outputs, float* y) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < outputs; ++i) y[t * outputs + i] += bias[i];
  }
}

bool IsTurned(int64_t tokens, int64_t inputs, int64_t outputs) {
  return tokens >= kTurnedTokensMin && tokens <= kTurnedTokensMax &&
         inputs * outputs >= kTurnedWeightsMin;
}

}  // namespace

void MatMul(TokenRows x,
            int64_t tokens,
            int64_t inputs,
            const float* weight,
            int64_t outputs,
            const float* bias,
            float* y) {
  const at::Tensor w = View(weight, {outputs, inputs});
  if (tokens == 1) {
    at::Tensor out = View(y, {outputs});
    at::mv_out(out, w, View(x.data, {inputs}));
  } else if (IsTurned(tokens, inputs, outputs)) {
    MatMulTurned(x, tokens, inputs, w, outputs, y);
  } else {
    at::Tensor out = View(y, {tokens, outputs});
    // Its rows as they lie: the library takes what parts them.
    const at::Tensor rows = at::from_blob(const_cast<float*>(x.data),
                                          {tokens, inputs},
                                          {x.stride, 1},
                                          at::kFloat);
    at::mm_out(out, rows, w.t());
  }
  if (bias != nullptr) AddBias(bias, tokens, outputs, y);
}

Linear::Linear(int64_t inputs, int64_t outputs, bool has_bias)
    : inputs_(inputs),
      outputs_(outputs),
      weight_(inputs * outputs),
      bias_(has_bias ? outputs : 0) {}

WeightSlot Linear::Rows(std::string name, int64_t first, int64_t rows) {
  return {.name = std::move(name),
          .shape = {rows, inputs_},
          .buffer = &weight_,
          .offset = first * inputs_};
}

WeightSlot Linear::Bias(std::string name, int64_t first, int64_t rows) {
  return {.name = std::move(name),
          .shape = {rows},
          .buffer = &bias_,
          .offset = first};
}

void Linear::Forward(TokenRows x, int64_t tokens, float* y) const {
  MatMul(x, tokens, inputs_, weight_.data(), outputs_, bias_.data(), y);
}

}  // namespace weir::engine
