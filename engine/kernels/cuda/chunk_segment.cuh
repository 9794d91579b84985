// SPDX-License-Identifier: Apache-2.0
//
// Where there is a system (chunk_shared.cuh): long rows in segments that are
// carried beside each other. What a segment makes of a state S is S M + R: R is
// what it makes of zero, and row i of M what it makes of the unit vector i when
// all values are zero, by the same products. So a first launch carries the rows
// that are not split and the others' first segments, and of the segments
// between first and last R and M; a second one makes of these the state at each
// segment's start; a third carries all but the first segments.
//
// How many segments a row has depends on its own length and the heads' shape.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_shared.cuh"

namespace weir::engine {

struct SegmentPlan {
  int32_t most = 1;                // segments of a row that is split
  int32_t row_tokens = INT32_MAX;  // the shortest of those
  float* starts = nullptr;         // [places][heads, V, K], states at starts
  float* transfers = nullptr;      // [places][heads, K, K], M

  // Split rows have a place for each segment, one behind the other.
  __host__ __device__ int32_t place_tokens() const { return row_tokens / most; }
};

inline SegmentPlan PlanOf(const ChunkArgs& args) {
  // Groups of 64 values or keys that a device has room for beside each other.
  // The number of one device for all: results are the same on each.
  const int32_t room = args.key_dim == 128 ? 264 : 132;
  const int32_t whole = args.heads * (args.value_dim / 64);
  const int32_t between = args.heads * ((args.value_dim + args.key_dim) / 64);
  SegmentPlan plan;
  const bool is_wide =
      args.key_dim >= 128 && (args.key_dim > 128 || args.value_dim % 128 == 0);
  const int32_t most = 2 + (room - whole) / between;
  if (!HasSystem(args) || !is_wide || most < 3 || whole > room) {
    return plan;
  }
  plan.most = most < 16 ? most : 16;
  // Of shapes that fill much of a device by themselves only very long rows: a
  // split one costs more where there are others.
  plan.row_tokens = whole > 48 ? 16384 : plan.most < 6 ? 8192 : 4096;
  return plan;
}

enum class SegmentPass { kFirst, kRest };

struct ChunkLaunch {
  ChunkArgs args;
  SegmentPlan plan;
  SegmentPass pass = SegmentPass::kFirst;
  int32_t places = 0;
};

struct ChunkSpan {
  int32_t first;
  int32_t end;
};

// A segment of a row.
struct SegmentPlace {
  int32_t row = 0;
  int32_t segment = 0;
  int32_t segments = 1;
  bool joined = false;  // R and M are asked for
  int64_t place = 0;    // the row's first

  __device__ bool is_last() const { return segment == segments - 1; }
  __device__ ChunkSpan Span(int32_t tokens) const {
    const int64_t chunks = (tokens + kChunkTokens - 1) / kChunkTokens;
    return {static_cast<int32_t>(chunks * segment / segments),
            static_cast<int32_t>(chunks * (segment + 1) / segments)};
  }
};

// The split row that has a place; false if none has.
__device__ inline bool FindPlaced(const ChunkLaunch& launch,
                                  int32_t place,
                                  SegmentPlace& found) {
  const ChunkArgs& args = launch.args;
  const int32_t unit = launch.plan.place_tokens();
  int32_t low = 0;
  int32_t high = args.rows;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (args.row_starts[middle] / unit <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  found.row = low;
  found.place = args.row_starts[low] / unit;
  found.segment = place - static_cast<int32_t>(found.place);
  found.segments = launch.plan.most;
  const int32_t tokens = args.row_starts[low + 1] - args.row_starts[low];
  return tokens >= launch.plan.row_tokens && found.segment < found.segments;
}

// What the block of this number has in a pass; false if nothing.
__device__ inline bool FindSegment(const ChunkLaunch& launch,
                                   int32_t number,
                                   SegmentPlace& found) {
  const ChunkArgs& args = launch.args;
  if (launch.pass == SegmentPass::kRest) {
    return FindPlaced(launch, number, found) && found.segment > 0;
  }
  if (number >= args.rows) {
    found.joined = true;
    return FindPlaced(launch, number - args.rows, found) && found.segment > 0 &&
           !found.is_last();
  }
  found.row = number;
  const int32_t tokens = args.row_starts[number + 1] - args.row_starts[number];
  if (tokens >= launch.plan.row_tokens) {
    found.segments = launch.plan.most;
    found.place = args.row_starts[number] / launch.plan.place_tokens();
  }
  return true;
}

// Values of a state that a block takes together, and its threads.
inline constexpr int kJoinValues = 16;
inline constexpr int kJoinThreads = 256;

// S_(s + 1) = S_s M_s + R_s for the segments s of a row in turn; blockIdx is
// (values, head, place).
template <int kKeyDim>
__global__ void __launch_bounds__(kJoinThreads)
    JoinSegmentsKernel(const __grid_constant__ ChunkLaunch launch) {
  constexpr int kRows = kJoinValues * kKeyDim / kJoinThreads;
  __shared__ float4 before[kJoinValues][kKeyDim / 4];
  const ChunkArgs& args = launch.args;
  SegmentPlace at;
  if (!FindPlaced(launch, static_cast<int32_t>(blockIdx.z), at) ||
      at.segment != 1 || args.slots[at.row] < 0) {
    return;
  }
  const int column = static_cast<int>(threadIdx.x) % kKeyDim;
  const int first = static_cast<int>(threadIdx.x) / kKeyDim * kRows;
  const int64_t head = blockIdx.y;
  const int64_t state = int64_t{args.value_dim} * kKeyDim;
  float* start = launch.plan.starts +
                 ((at.place + 1) * args.heads + head) * state +
                 (int64_t{blockIdx.x} * kJoinValues + first) * kKeyDim + column;
  const float* transfer =
      launch.plan.transfers +
      ((at.place + 1) * args.heads + head) * (kKeyDim * kKeyDim) + column;
  float s[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) s[i] = start[i * kKeyDim];
  for (int segment = 1; segment + 1 < at.segments; ++segment) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      reinterpret_cast<float*>(before[first + i])[column] = s[i];
    }
    __syncthreads();
    start += args.heads * state;
#pragma unroll
    for (int i = 0; i < kRows; ++i) s[i] = start[i * kKeyDim];
#pragma unroll 4
    for (int key = 0; key < kKeyDim; key += 4) {
      float m[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) m[j] = transfer[(key + j) * kKeyDim];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 x = before[first + i][key / 4];
        s[i] += x.x * m[0] + x.y * m[1] + x.z * m[2] + x.w * m[3];
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) start[i * kKeyDim] = s[i];
    transfer += args.heads * (kKeyDim * kKeyDim);
  }
}

}  // namespace weir::engine
