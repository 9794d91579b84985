// SPDX-License-Identifier: Apache-2.0
//
// Where a block of gated_delta_ring.cu works, where its slot's ring lies, and
// what it keeps in shared memory.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/gated_delta_ring.h"

namespace weir::engine {

inline constexpr int kRingThreads = 256;
inline constexpr int kRingWarps = kRingThreads / kWarp;
// A block's values, one for each thread, are those of whole heads that share a
// key, or a part of one head's.
inline constexpr int kRingValuesMax = kRingThreads;
inline constexpr int kRingHeadsMax = kRingWarps;

struct RingPlan {
  int32_t heads;    // of a block
  int32_t values;   // of a block; the head's last may have fewer
  int32_t parts;    // blocks of a head, which are a cluster
  int32_t sharing;  // groups of `heads` that share a key
  uint32_t head_factor;
  // Whether all of a ring's places are read, before it is known how many hold
  // something: for few rows, which wait for the one read after the other.
  bool reads_ahead;
};

// Of a block's values, by one product: 2^16 / V, rounded up, is exact for as
// few as there are.
__host__ __device__ constexpr uint32_t HeadFactor(int32_t value_dim) {
  return (65536 + value_dim - 1) / value_dim;
}
__device__ inline int HeadOf(int heads, uint32_t factor, int value) {
  return heads == 1 ? 0 : static_cast<int>(value * factor >> 16);
}

// One slot's ring.
struct Ring {
  float* base;
  int32_t heads;
  int32_t key_heads;
  int32_t key_dim;
  int32_t value_dim;

  __device__ static Ring Of(const GatedDeltaRingArgs& args, int32_t slot) {
    return {args.ring + slot * args.ring_stride,
            args.step.heads,
            args.step.key_heads,
            args.step.key_dim,
            args.step.value_dim};
  }
  __device__ float* Marks(int head) const { return base + head * kRingSteps; }
  __device__ float* Keys(int key_head) const {
    return base + heads * kRingSteps + key_head * kRingHeld * key_dim;
  }
  __device__ float* Values(int head) const {
    return Keys(key_heads) + head * kRingHeld * value_dim;
  }
  // Entries that a head's part of the ring holds, whatever lies there.
  __device__ int Held(int head) const {
    return static_cast<int>(
        min(__float_as_uint(Marks(head)[kRingHeld]), uint32_t{kRingHeld}));
  }
  __device__ void SetHeld(int head, int held) const {
    Marks(head)[kRingHeld] = __uint_as_float(static_cast<uint32_t>(held));
  }
};

// Rows of a state as a warp goes over them: K / 16 neighbouring lanes hold a
// row, 16 numbers each in pieces of 16 bytes that interleave, and a lane has
// two rows, kRows / 2 from each other.
template <int kKeyDim>
struct RingRows {
  static constexpr int kNumbers = 16;
  static constexpr int kPieces = kNumbers / 4;
  static constexpr int kLanes = kKeyDim / kNumbers;
  static constexpr int kRows = 2 * kWarp / kLanes;

  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ static int Row(int which) {
    return which * (kRows / 2) + Lane() / kLanes;
  }
  __device__ static int Column(int piece) {
    return (Lane() % kLanes + piece * kLanes) * 4;
  }
};

// What a value's row needs beside the state. u = beta (v - decay (s . k)),
// o = read + decay (s . q) + u (k . q), where v is less and read is what the
// ring's entries give.
struct alignas(16) RingValue {
  float v;
  float read;
  float decay;  // the product of all since the state was written
  float beta;
};

inline constexpr int kRingStages = 2;

template <int kKeyDim>
struct RingShared {
  // Of each warp, of its next rows.
  alignas(128) float stages[kRingWarps][kRingStages]
                           [RingRows<kKeyDim>::kRows * kKeyDim];
  // At a fold: the entries' keys, and of each value P_nj u_j.
  alignas(16) float keys[kRingHeld][kKeyDim];
  float entries[kRingHeld][kRingValuesMax];
  // The convolution's, before they are made of length one.
  alignas(16) float q[kKeyDim];
  alignas(16) float k[kKeyDim];
  RingValue values[kRingValuesMax];
  float u[kRingValuesMax];
  float o[kRingValuesMax];
  float2 met[kRingSteps];  // k_j . k and k_j . q; in the last place k . q
  // P_nj with the token's decay, in the last place D_n with it.
  float rest[kRingHeadsMax][kRingSteps];
  float beta[kRingHeadsMax];
  float squares[2 * kKeyDim / kWarp];
  float o_squares[kRingValuesMax / kSquaresGroup];
  uint64_t loaded[kRingWarps][kRingStages];
};

// A block's part of a row.
struct RingPlace {
  int32_t slot;
  uint32_t consumed;
  int64_t token;
  int32_t head;      // the first
  int32_t key_head;  // of all of them
  int32_t first_value;
  int32_t values;
  int32_t value;  // the block's first among all heads'
  int32_t held;   // entries of the ring
  bool is_fresh;
  bool is_fold;
  bool has_keys;  // whether it is this block that keeps the key
};

}  // namespace weir::engine
