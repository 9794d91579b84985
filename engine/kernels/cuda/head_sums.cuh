// SPDX-License-Identifier: Apache-2.0
//
// The normaliser of decode.h, as the blocks of a head's tiles share it: the
// block of the first tile has the sums of keys and the count, a number a
// thread; each block has the sums of its own rows' values. So what a block
// writes no other reads, and one launch does.
//
// Threads: all of a block call each function together.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/summed_number.cuh"

namespace weir::engine {

// What one token's sums bring to a block, in shared memory.
template <int kRows>
struct SumOperands {
  float added[kRows];              // to the outputs, of the floor
  float parts[kTileThreads / 32];  // of the dot, a warp's each
};

// Two floats of a sum in device memory; null where a thread has none.
struct SumPlace {
  float* high = nullptr;
  int64_t to_low = 0;

  __device__ SummedNumber Load(bool fresh) const {
    if (high == nullptr || fresh) return {0.0F, 0.0F};
    return {high[0], high[to_low]};
  }
  __device__ void Store(SummedNumber x) const {
    if (high == nullptr) return;
    high[0] = x.high;
    high[to_low] = x.low;
  }
};

class HeadSums {
 public:
  // Of a head's rows [first_row, first_row + rows).
  __device__ HeadSums(const DecodeArgs& args,
                      int32_t slot,
                      int32_t head,
                      int32_t first_row,
                      int32_t rows,
                      bool fresh)
      : of_(args.sums),
        step_(args.step),
        head_(head),
        first_row_(first_row),
        rows_(rows),
        key_(KeyAt(slot).Load(fresh)),
        value_(ValueAt(slot).Load(fresh)),
        count_(CountAt(slot).Load(fresh)) {}

  // Before token t's step: its values, of which this thread wrote number
  // threadIdx.x.
  template <int kRows>
  __device__ void TakeValues(int64_t t,
                             const float* v,
                             SumOperands<kRows>& to) {
    if (!has_value()) return;
    value_ = Summed(value_, v[threadIdx.x]);
    to.added[threadIdx.x] = Floor(t) * value_.high;
  }
  // What the floor adds to a row's output.
  template <int kRows>
  __device__ float Added(const SumOperands<kRows>& token, int row) const {
    return has_floor() ? token.added[row] : 0.0F;
  }

  template <int kRows>
  __device__ void TakeKeys(SummedDecay decay,
                           const float* k,
                           const float* q,
                           SumOperands<kRows>& to) {
    if (first_row_ != 0) return;
    float dot = 0;
    if (has_key()) {
      key_ = Summed(decay, key_, k[threadIdx.x], 1.0F);
      dot = (key_.high + of_.eps) * q[threadIdx.x];
    }
    dot = SumOfWarp(dot);
    if (threadIdx.x % 32 == 0) to.parts[threadIdx.x / 32] = dot;
  }
  // After all of the block's TakeKeys.
  template <int kRows>
  __device__ void EmitDot(int64_t t, const SumOperands<kRows>& token) {
    if (!has_count()) return;
    float dot = 0;
    for (const float part : token.parts) dot += part;
    if (has_floor()) {
      count_ = Summed(count_, 1.0F);
      dot = fmaf(Floor(t), count_.high, dot);
    }
    of_.dots[t * step_.heads + head_] = dot;
  }

  // To the slot that it was made of: where a number lies is found anew, which
  // is cheaper than a register for it.
  __device__ void Store(int32_t slot) const {
    KeyAt(slot).Store(key_);
    ValueAt(slot).Store(value_);
    CountAt(slot).Store(count_);
  }

 private:
  __device__ static int32_t Thread() {
    return static_cast<int32_t>(threadIdx.x);
  }
  __device__ bool has_floor() const { return of_.query_sums != nullptr; }
  // Of this thread.
  __device__ bool has_key() const {
    return first_row_ == 0 && Thread() < step_.key_dim;
  }
  __device__ bool has_value() const { return has_floor() && Thread() < rows_; }
  __device__ bool has_count() const { return first_row_ == 0 && Thread() == 0; }
  __device__ float Floor(int64_t t) const {
    return of_.floor * of_.query_sums[t * step_.heads + head_];
  }

  __device__ SumPlace KeyAt(int64_t slot) const {
    if (!has_key()) return {};
    const int64_t dim = step_.key_dim;
    return {of_.keys + slot * of_.keys_stride + head_ * 2 * dim + Thread(),
            dim};
  }
  __device__ SumPlace ValueAt(int64_t slot) const {
    if (!has_value()) return {};
    const int64_t dim = step_.value_dim;
    return {of_.values + slot * of_.values_stride + head_ * 2 * dim +
                first_row_ + Thread(),
            dim};
  }
  __device__ SumPlace CountAt(int64_t slot) const {
    if (!has_floor() || !has_count()) return {};
    return {of_.counts + slot * of_.counts_stride + int64_t{head_} * 2, 1};
  }

  const KeySums& of_;
  const RecurrenceArgs& step_;
  const int32_t head_;
  const int32_t first_row_;
  const int32_t rows_;
  SummedNumber key_;
  SummedNumber value_;
  SummedNumber count_;
};

}  // namespace weir::engine
