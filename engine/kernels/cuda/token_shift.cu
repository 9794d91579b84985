// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/token_shift.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kGridMax = 65535;

// A block has 256 channels of one token.
template <typename Number>
__global__ void __launch_bounds__(kThreads)
    MixKernel(const __grid_constant__ ShiftedRows rows,
              const __grid_constant__ ShiftShares shares) {
  const int64_t t = blockIdx.x;
  const int32_t c = static_cast<int32_t>(blockIdx.y) * kThreads +
                    static_cast<int>(threadIdx.x);
  if (c >= rows.channels) return;
  const int64_t at = t * rows.channels + c;
  const int32_t row = RowOf(rows.of, t);
  float x = 0;
  float delta = 0;
  if (row >= 0) {
    x = rows.x[at];
    float before = 0;
    if (t > rows.of.row_starts[row]) {
      before = rows.x[at - rows.channels];
    } else if (rows.of.consumed[row] != 0) {
      before = rows.state[rows.of.slots[row] * rows.state_stride + c];
    }
    delta = before - x;
  }
  for (int32_t m = 0; m < shares.count; ++m) {
    float share = shares.mix[int64_t{m} * rows.channels + c];
    if (shares.add != nullptr && row >= 0) {
      share += shares.add[m * shares.pitch + at];
    }
    static_cast<Number*>(shares.out)[m * shares.pitch + at] =
        FromFloat<Number>(fmaf(delta, share, x));
  }
}

// A block has 256 channels of one row.
__global__ void __launch_bounds__(kThreads)
    KeepKernel(const __grid_constant__ ShiftedRows rows) {
  const auto row = static_cast<int32_t>(blockIdx.x);
  const int32_t c = static_cast<int32_t>(blockIdx.y) * kThreads +
                    static_cast<int>(threadIdx.x);
  const int32_t slot = rows.of.slots[row];
  const int64_t end = rows.of.row_starts[row + 1];
  if (c >= rows.channels || slot < 0 || end == rows.of.row_starts[row]) return;
  rows.state[slot * rows.state_stride + c] =
      rows.x[(end - 1) * rows.channels + c];
}

dim3 Grid(int64_t items, int32_t channels) {
  return {static_cast<unsigned>(items),
          static_cast<unsigned>((channels + kThreads - 1) / kThreads)};
}

bool IsSound(const ShiftedRows& rows) {
  return rows.channels >= 1 && rows.channels <= kGridMax * kThreads;
}

}  // namespace

cudaError_t MixShiftedRows(const ShiftedRows& rows,
                           const ShiftShares& shares,
                           cudaStream_t stream) {
  if (!IsSound(rows)) return cudaErrorInvalidValue;
  if (rows.of.rows == 0 || rows.of.tokens == 0) return cudaSuccess;
  const dim3 grid = Grid(rows.of.tokens, rows.channels);
  if (shares.number == StateNumber::kFloat32) {
    MixKernel<float><<<grid, kThreads, 0, stream>>>(rows, shares);
  } else {
    MixKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(rows, shares);
  }
  return cudaGetLastError();
}

cudaError_t KeepLastRows(const ShiftedRows& rows, cudaStream_t stream) {
  if (!IsSound(rows)) return cudaErrorInvalidValue;
  if (rows.of.rows == 0 || rows.of.tokens == 0) return cudaSuccess;
  KeepKernel<<<Grid(rows.of.rows, rows.channels), kThreads, 0, stream>>>(rows);
  return cudaGetLastError();
}

}  // namespace weir::engine
