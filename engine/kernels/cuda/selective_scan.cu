// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/selective_scan.h"

namespace weir::engine {
namespace {

constexpr int kWarp = 32;
constexpr int kFewStates = 8;  // that a thread holds, or twice as many
constexpr int kBlockMax = 512;
constexpr int kWideChannels = 64;  // of a block that has all states of each
constexpr int kTile = 4;           // tokens whose operands wait in a block
constexpr int kWideBlocks = 12;    // of them on a multiprocessor
constexpr int kCarryThreads = 256;
constexpr int kCarryAhead = 8;  // segments whose sums are read together

// How a block parts its work: a thread has `held` states of one channel, the
// threads of a warp neighbouring channels, `groups` threads a channel's states.
struct BlockShape {
  int held = 0;
  int groups = 0;
  int channels = 0;

  __host__ __device__ int padded() const { return held * groups; }
  __host__ __device__ int threads() const { return channels * groups; }
  // Floats of B, or of C, that wait.
  __host__ __device__ int tile_floats() const { return kTile * padded(); }
};

BlockShape ShapeOf(int32_t states) {
  const int held = states <= kFewStates ? kFewStates : 2 * kFewStates;
  const int groups = (states + held - 1) / held;
  return {held, groups, groups == 1 ? kWideChannels : kWarp};
}

// Tokens [first, last) of a row; `carry` is where the state before them lies in
// the workspace, -1: in the slot.
struct Segment {
  int32_t row = -1;  // -1: there is nothing to do
  int64_t first = 0;
  int64_t last = 0;
  int64_t carry = -1;
  bool is_fresh = false;
  bool ends_row = true;
};

// A row's segments but its last are whole; k of them end before token
// first + k * kScanSegment, and whole segments of all rows differ in
// (first + k * kScanSegment) / kScanSegment, their place in the workspace.
__device__ int32_t WholeSegments(int64_t count) {
  return count > 0 ? static_cast<int32_t>((count - 1) / kScanSegment) : 0;
}

__device__ bool IsFresh(const ScanRowsArgs& args, int32_t row) {
  return args.consumed != nullptr && args.consumed[row] == 0;
}

// The last row whose segments begin at `place` or before, where those of row r
// begin at row_starts[r] / kScanSegment + r * kEach.
template <int kEach>
__device__ int32_t RowAt(const SelectiveScanArgs& scan, int64_t place) {
  int32_t low = 0;
  int32_t high = scan.rows;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (scan.row_starts[middle] / kScanSegment + middle * kEach <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The row as one segment.
__device__ Segment WholeRow(const ScanRowsArgs& args, int32_t row) {
  Segment segment;
  segment.first = args.scan.row_starts[row];
  segment.last = args.scan.row_starts[row + 1];
  segment.is_fresh = IsFresh(args, row);
  if (args.scan.slots[row] >= 0 && segment.first < segment.last) {
    segment.row = row;
  }
  return segment;
}

// Of all segments the one at `place`.
__device__ Segment SegmentAt(const ScanRowsArgs& args, int64_t place) {
  const int32_t row = RowAt<1>(args.scan, place);
  Segment segment = WholeRow(args, row);
  const int64_t base = segment.first / kScanSegment;
  const int64_t index = place - base - row;
  const int32_t whole = WholeSegments(segment.last - segment.first);
  if (index < 0 || index > whole) segment.row = -1;
  segment.first += index * kScanSegment;
  if (index < whole) {
    segment.last = segment.first + kScanSegment;
    segment.carry = base + index;
    segment.ends_row = false;
  }
  // The slot has by now what the whole segments left.
  if (whole > 0) segment.is_fresh = false;
  return segment;
}

// Of the whole segments the one at `place`.
__device__ Segment WholeSegmentAt(const ScanRowsArgs& args, int64_t place) {
  const int32_t row = RowAt<0>(args.scan, place);
  Segment segment = WholeRow(args, row);
  const int64_t index = place - segment.first / kScanSegment;
  const int32_t whole = WholeSegments(segment.last - segment.first);
  if (index < 0 || index >= whole) segment.row = -1;
  segment.first += index * kScanSegment;
  segment.last = segment.first + kScanSegment;
  segment.carry = place;
  return segment;
}

// Where a thread works.
struct ThreadPlace {
  int32_t channel;
  int32_t group;
  int32_t first_state;
  bool here;  // the channel is one
};

__device__ ThreadPlace PlaceOf(const SelectiveScanArgs& scan,
                               const BlockShape& shape) {
  ThreadPlace place;
  const int lane = static_cast<int>(threadIdx.x) % shape.channels;
  place.group = static_cast<int>(threadIdx.x) / shape.channels;
  place.channel = static_cast<int32_t>(blockIdx.y) * shape.channels + lane;
  place.first_state = place.group * shape.held;
  place.here = place.channel < scan.channels;
  return place;
}

// A thread's states, and by what they decay; those that are none are zero.
template <int kHeld>
struct Held {
  float s[kHeld];
  float rate[kHeld];

  __device__ void LoadRates(const SelectiveScanArgs& scan,
                            const ThreadPlace& place) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int32_t n = place.first_state + i;
      const bool here = place.here && n < scan.states;
      rate[i] =
          here ? scan.rate[int64_t{n} * scan.channels + place.channel] : 0.0F;
    }
  }
  // [N, C]; null: zero.
  __device__ void Load(const SelectiveScanArgs& scan,
                       const ThreadPlace& place,
                       const float* from) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int32_t n = place.first_state + i;
      const bool here = from != nullptr && place.here && n < scan.states;
      s[i] = here ? from[int64_t{n} * scan.channels + place.channel] : 0.0F;
    }
  }
  __device__ void Store(const SelectiveScanArgs& scan,
                        const ThreadPlace& place,
                        float* to) const {
    if (!place.here) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int32_t n = place.first_state + i;
      if (n < scan.states)
        to[int64_t{n} * scan.channels + place.channel] = s[i];
    }
  }
};

// x of a tile's tokens in this thread's channel; zero beyond them.
__device__ void LoadChannel(const TokenRows& x,
                            const ThreadPlace& place,
                            int64_t first,
                            int count,
                            float (&to)[kTile]) {
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    const bool here = i < count && place.here;
    to[i] = here ? x.data[(first + i) * x.stride + place.channel] : 0.0F;
  }
}

// x [T][N] of a tile's tokens to shared memory [kTile, padded].
__device__ void LoadStates(const TokenRows& x,
                           int32_t states,
                           int padded,
                           int64_t first,
                           int count,
                           float* to) {
  for (int i = 0; i < count; ++i) {
    const float* from = x.data + (first + i) * x.stride;
    for (int n = threadIdx.x; n < padded; n += static_cast<int>(blockDim.x)) {
      to[i * padded + n] = n < states ? from[n] : 0.0F;
    }
  }
}

// S of the token; b lies in shared memory, at 16 bytes.
template <int kHeld>
__device__ void Write(Held<kHeld>& held, float dt, float x, const float* b) {
  const float write = dt * x;
#pragma unroll
  for (int four = 0; four < kHeld / 4; ++four) {
    const float4 bs = reinterpret_cast<const float4*>(b)[four];
    const float of[4] = {bs.x, bs.y, bs.z, bs.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int i = four * 4 + j;
      held.s[i] = fmaf(exp2f(dt * held.rate[i]), held.s[i], write * of[j]);
    }
  }
}

// The sum over a thread's states: four sums, so that none waits for the last.
template <int kHeld>
__device__ float Read(const Held<kHeld>& held, const float* c) {
  float sums[4] = {};
#pragma unroll
  for (int four = 0; four < kHeld / 4; ++four) {
    const float4 cs = reinterpret_cast<const float4*>(c)[four];
    sums[0] = fmaf(held.s[four * 4], cs.x, sums[0]);
    sums[1] = fmaf(held.s[four * 4 + 1], cs.y, sums[1]);
    sums[2] = fmaf(held.s[four * 4 + 2], cs.z, sums[2]);
    sums[3] = fmaf(held.s[four * 4 + 3], cs.w, sums[3]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// What a whole segment adds to a state of zero, and the sum of its time steps.
// blockIdx is (place, channels).
template <int kHeld>
__global__ void __launch_bounds__(kBlockMax)
    SegmentSumsKernel(const __grid_constant__ ScanRowsArgs args,
                      BlockShape shape,
                      float* totals) {
  extern __shared__ __align__(16) float shared[];
  const SelectiveScanArgs& scan = args.scan;
  const Segment segment = WholeSegmentAt(args, blockIdx.x);
  if (segment.row < 0) return;
  const ThreadPlace place = PlaceOf(scan, shape);
  const float bias = place.here ? scan.dt_bias[place.channel] : 0.0F;
  Held<kHeld> held;
  held.LoadRates(scan, place);
  held.Load(scan, place, nullptr);
  float total = 0;
  for (int64_t t = segment.first; t < segment.last; t += kTile) {
    float dt[kTile];
    float x[kTile];
    LoadChannel(scan.dt, place, t, kTile, dt);
    LoadChannel(scan.x, place, t, kTile, x);
    __syncthreads();
    LoadStates(scan.b, scan.states, shape.padded(), t, kTile, shared);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      const float step = Softplus(dt[i] + bias);
      total += step;
      Write(held, step, x[i], shared + i * shape.padded() + place.first_state);
    }
  }
  const int64_t channels = scan.channels;
  held.Store(
      scan, place, args.workspace + segment.carry * scan.states * channels);
  if (place.here && place.group == 0) {
    totals[segment.carry * channels + place.channel] = total;
  }
}

// From what whole segments add to the state before each; the slot gets that
// before the row's last. A thread has one number of one row's state.
__global__ void __launch_bounds__(kCarryThreads)
    CarryKernel(const __grid_constant__ ScanRowsArgs args,
                const float* totals) {
  const SelectiveScanArgs& scan = args.scan;
  const auto row = static_cast<int32_t>(blockIdx.x);
  const int64_t i = int64_t{blockIdx.y} * kCarryThreads + threadIdx.x;
  const int64_t numbers = int64_t{scan.states} * scan.channels;
  const int32_t slot = scan.slots[row];
  const int64_t first = scan.row_starts[row];
  const int32_t whole = WholeSegments(scan.row_starts[row + 1] - first);
  if (slot < 0 || whole == 0 || i >= numbers) return;
  float* state = scan.state + slot * scan.state_stride + i;
  const int64_t base = first / kScanSegment;
  float* sums = args.workspace + base * numbers + i;
  totals += base * scan.channels + i % scan.channels;
  const float rate = scan.rate[i];
  float s = IsFresh(args, row) ? 0.0F : *state;
  for (int32_t k = 0; k < whole; k += kCarryAhead) {
    float added[kCarryAhead];
    float decay[kCarryAhead];
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      if (k + j >= whole) break;
      added[j] = sums[(k + j) * numbers];
      decay[j] = exp2f(rate * totals[int64_t{k + j} * scan.channels]);
    }
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      if (k + j >= whole) break;
      sums[(k + j) * numbers] = s;
      s = fmaf(decay[j], s, added[j]);
    }
  }
  *state = s;
}

// Of a block's threads' sums, those of this thread's channel in their order.
__device__ float SumOfGroups(const float* parts, const BlockShape& shape) {
  parts += static_cast<int>(threadIdx.x) % shape.channels;
  float sum = 0;
  for (int group = 0; group < shape.groups; ++group) {
    sum += parts[group * shape.channels];
  }
  return sum;
}

// blockIdx is (row, or place of a segment; channels).
template <int kHeld, bool kAlone, typename Number>
__global__ void __launch_bounds__(kAlone ? kWideChannels : kBlockMax,
                                  kAlone ? kWideBlocks : 1)
    ScanKernel(const __grid_constant__ ScanRowsArgs args,
               BlockShape shape,
               bool by_segments) {
  // B, then C, then sums [kTile, groups, channels], if groups are several.
  extern __shared__ __align__(16) float shared[];
  const SelectiveScanArgs& scan = args.scan;
  const Segment segment =
      by_segments ? SegmentAt(args, blockIdx.x)
                  : WholeRow(args, static_cast<int32_t>(blockIdx.x));
  if (segment.row < 0) return;
  const ThreadPlace place = PlaceOf(scan, shape);
  float* state =
      segment.carry >= 0
          ? args.workspace + segment.carry * scan.states * scan.channels
          : scan.state + scan.slots[segment.row] * scan.state_stride;
  Held<kHeld> held;
  held.Load(scan, place, segment.is_fresh ? nullptr : state);
  held.LoadRates(scan, place);
  const float bias = place.here ? scan.dt_bias[place.channel] : 0.0F;
  const float d = place.here ? scan.d[place.channel] : 0.0F;
  const bool is_gated = scan.z.data != nullptr;
  const int padded = shape.padded();
  float* b = shared + place.first_state;
  float* c = b + shape.tile_floats();
  float* parts = shared + 2 * shape.tile_floats();
  Number* out = static_cast<Number*>(args.out) + place.channel;
  for (int64_t t = segment.first; t < segment.last; t += kTile) {
    const int count = static_cast<int>(min(segment.last - t, int64_t{kTile}));
    float dt[kTile];
    float x[kTile];
    float z[kTile] = {};
    LoadChannel(scan.dt, place, t, count, dt);
    LoadChannel(scan.x, place, t, count, x);
    if (is_gated) LoadChannel(scan.z, place, t, count, z);
    __syncthreads();
    LoadStates(scan.b, scan.states, padded, t, count, shared);
    LoadStates(
        scan.c, scan.states, padded, t, count, shared + shape.tile_floats());
    __syncthreads();
    const auto finish = [&](int i, float sum) {
      if (!place.here) return;
      float y = fmaf(d, x[i], sum);
      if (is_gated) y *= Silu(z[i]);
      out[(t + i) * scan.out_stride] = FromFloat<Number>(y);
    };
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (i >= count) break;
      Write(held, Softplus(dt[i] + bias), x[i], b + i * padded);
      const float sum = Read(held, c + i * padded);
      if constexpr (kAlone) {
        finish(i, sum);
      } else {
        parts[i * shape.threads() + threadIdx.x] = sum;
      }
    }
    if constexpr (kAlone) continue;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (i >= count || i % shape.groups != place.group) continue;
      finish(i, SumOfGroups(parts + i * shape.threads(), shape));
    }
  }
  if (segment.ends_row) held.Store(scan, place, state);
}

unsigned Blocks(int64_t work, int64_t each) {
  return static_cast<unsigned>((work + each - 1) / each);
}

// Places of whole segments in the workspace.
int64_t WholePlaces(int64_t tokens) {
  return tokens > kScanSegment ? tokens / kScanSegment : 0;
}

template <int kHeld>
cudaError_t CarryOverSegments(const ScanRowsArgs& args,
                              const BlockShape& shape,
                              cudaStream_t stream) {
  const SelectiveScanArgs& scan = args.scan;
  const int64_t places = WholePlaces(args.tokens);
  const int64_t numbers = int64_t{scan.states} * scan.channels;
  float* totals = args.workspace + places * numbers;
  SegmentSumsKernel<kHeld><<<dim3(static_cast<unsigned>(places),
                                  Blocks(scan.channels, shape.channels)),
                             shape.threads(),
                             shape.tile_floats() * sizeof(float),
                             stream>>>(args, shape, totals);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  CarryKernel<<<dim3(static_cast<unsigned>(scan.rows),
                     Blocks(numbers, kCarryThreads)),
                kCarryThreads,
                0,
                stream>>>(args, totals);
  return cudaGetLastError();
}

template <int kHeld>
cudaError_t Scan(const ScanRowsArgs& args,
                 const BlockShape& shape,
                 cudaStream_t stream) {
  const SelectiveScanArgs& scan = args.scan;
  const bool by_segments =
      args.longest_row > kScanSegment && WholePlaces(args.tokens) > 0;
  int64_t segments = scan.rows;
  if (by_segments) {
    segments += args.tokens / kScanSegment;
    const cudaError_t status = CarryOverSegments<kHeld>(args, shape, stream);
    if (status != cudaSuccess) return status;
  }
  const dim3 grid(static_cast<unsigned>(segments),
                  Blocks(scan.channels, shape.channels));
  int floats = 2 * shape.tile_floats();
  if (shape.groups > 1) floats += kTile * shape.threads();
  const size_t bytes = floats * sizeof(float);
  const auto launch = [&](auto kernel) {
    kernel<<<grid, shape.threads(), bytes, stream>>>(args, shape, by_segments);
    return cudaGetLastError();
  };
  const bool is_float = args.number == StateNumber::kFloat32;
  if constexpr (kHeld > kFewStates) {
    if (shape.groups > 1) {
      return is_float ? launch(ScanKernel<kHeld, false, float>)
                      : launch(ScanKernel<kHeld, false, __nv_bfloat16>);
    }
  }
  return is_float ? launch(ScanKernel<kHeld, true, float>)
                  : launch(ScanKernel<kHeld, true, __nv_bfloat16>);
}

bool IsSound(const ScanRowsArgs& args) {
  constexpr int64_t kGridMax = 65535;
  const SelectiveScanArgs& scan = args.scan;
  return scan.states >= 1 && scan.states <= kScanStatesMax &&
         scan.channels >= 1 && Blocks(scan.channels, kWarp) <= kGridMax &&
         Blocks(int64_t{scan.states} * scan.channels, kCarryThreads) <=
             kGridMax &&
         scan.state != nullptr && scan.out == nullptr && args.out != nullptr &&
         (args.longest_row <= kScanSegment || args.workspace != nullptr);
}

}  // namespace

int64_t ScanWorkspaceFloats(int64_t tokens, int32_t channels, int32_t states) {
  return WholePlaces(tokens) * channels * (int64_t{states} + 1);
}

cudaError_t ScanRows(const ScanRowsArgs& args, cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  if (args.scan.rows == 0 || args.tokens == 0) return cudaSuccess;
  const BlockShape shape = ShapeOf(args.scan.states);
  return shape.held == kFewStates ? Scan<kFewStates>(args, shape, stream)
                                  : Scan<2 * kFewStates>(args, shape, stream);
}

}  // namespace weir::engine
