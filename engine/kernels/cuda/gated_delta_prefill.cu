// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/eight_numbers.cuh"
#include "engine/kernels/cuda/gated_delta_inputs.cuh"
#include "engine/kernels/cuda/gated_delta_prefill.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
// Tokens whose inputs a thread has in flight.
constexpr int kAhead = 4;
constexpr int kBlocksOfProcessor = 2;

using PrepareArgs = GatedDeltaPrepareArgs;

// As SigmoidOf and SiluOf, without the scaling for denormal numbers: 1 + e^-x
// is none, and an e^-x that is one vanishes in it.
__device__ float SigmoidOfNormal(float x) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(-x * kLog2E));
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0F + e));
  return y;
}
__device__ float SiluOfNormal(float x) { return x * SigmoidOfNormal(x); }

__host__ __device__ int MixedOf(const PrepareArgs& args) {
  return 2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
}

// Tokens [begin, end), of one row.
struct RowPart {
  int32_t slot;
  uint32_t consumed;  // tokens of the slot before the row
  int64_t first;      // token of the row
  int64_t begin;
  int64_t end;
};

// f(part) for the parts of rows in the tokens [begin, end), but for padding.
template <typename Function>
__device__ void ForRowParts(const PrepareArgs& args,
                            int64_t begin,
                            int64_t end,
                            Function f) {
  // The last row that begins at or before the first token.
  int row = 0;
  for (int beyond = args.rows; beyond - row > 1;) {
    const int middle = (row + beyond) / 2;
    (args.row_starts[middle] <= begin ? row : beyond) = middle;
  }
  for (; row < args.rows && args.row_starts[row] < end; ++row) {
    const int32_t slot = args.slots[row];
    if (slot < 0) continue;
    const int64_t first = args.row_starts[row];
    const int64_t stop = args.row_starts[row + 1];
    f(RowPart{slot,
              args.consumed == nullptr ? 0 : args.consumed[row],
              first,
              max(begin, first),
              min(end, stop)});
  }
}

// Eight channels of the convolution: its weights, and the inputs before the
// token that comes next. kWidth is W, or 0 for any; then what W does not use
// comes first and is zero.
template <typename Number, int kWidth, bool kAligned>
struct EightChannels {
  static constexpr int kHeld = kWidth > 0 ? kWidth : kTapsMax;
  using Eight = EightNumbers<Number>;

  float weight[kHeld][kEight];
  float bias[kEight];
  float x[kHeld][kEight];  // the oldest first, the token's own last: see Slot

  __device__ void LoadWeights(const PrepareArgs& args, int column) {
    const int taps = kWidth > 0 ? kWidth : args.conv_width;
#pragma unroll
    for (int c = 0; c < kEight; ++c) {
      const float* from = args.conv_weight + (column + c) * taps;
      if constexpr (kWidth == 4) {
        float four[4];
        FetchWeights(from, 4, four);
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) weight[tap][c] = four[tap];
      } else {
#pragma unroll
        for (int tap = 0; tap < kHeld; ++tap) {
          const int at = tap - (kHeld - taps);
          weight[tap][c] = at >= 0 ? from[at] : 0.0F;
        }
      }
      bias[c] = args.conv_bias == nullptr ? 0.0F : args.conv_bias[column + c];
    }
  }

  // The inputs before token part.begin.
  __device__ void LoadPast(const PrepareArgs& args,
                           const RowPart& part,
                           int column) {
    const int taps = kWidth > 0 ? kWidth : args.conv_width;
    const auto* projected = static_cast<const Number*>(args.projected) + column;
    const auto* window = static_cast<const Number*>(args.window) +
                         part.slot * args.window_stride + column;
#pragma unroll
    for (int tap = 0; tap < kHeld - 1; ++tap) {
      const int back = kHeld - 1 - tap;
      const int64_t t = part.begin - back;
      const auto missing =
          static_cast<uint32_t>(max(int64_t{0}, part.first - t));
      const Number* from = nullptr;
      if (back < taps && missing == 0) {
        from = projected + t * args.projected_stride;
      } else if (back < taps && part.consumed >= missing) {
        const uint32_t entry =
            (part.consumed - missing) % static_cast<uint32_t>(taps);
        from = window + int64_t{entry} * MixedOf(args);
      }
      if (from != nullptr) {
        Eight::template Load<kAligned>(from).To(x[tap]);
      } else {
#pragma unroll
        for (int c = 0; c < kEight; ++c) x[tap][c] = 0;
      }
    }
  }

  // The i-th token of a turn of kAhead: its input becomes the last of x. A ring
  // comes round in a turn; else what is held moves up.
  __device__ void Put(const Eight& input, int i) {
    input.To(x[Slot(kHeld - 1, i)]);
  }

  // silu(conv) of the token that was put last, which becomes the past.
  __device__ void Take(const PrepareArgs& args, int i, float (&y)[kEight]) {
#pragma unroll
    for (int c = 0; c < kEight; ++c) {
      float sum = bias[c];
#pragma unroll
      for (int tap = 0; tap < kHeld; ++tap) {
        sum = fmaf(weight[tap][c], x[Slot(tap, i)][c], sum);
      }
      y[c] = SiluOfNormal(sum);
    }
    if constexpr (!kIsRing) {
#pragma unroll
      for (int tap = 0; tap < kHeld - 1; ++tap) {
        const bool is_used = kWidth > 0 || tap >= kHeld - args.conv_width;
#pragma unroll
        for (int c = 0; c < kEight; ++c) {
          x[tap][c] = is_used ? x[tap + 1][c] : 0.0F;
        }
      }
    }
  }

 private:
  static constexpr bool kIsRing = kHeld == kAhead;
  __device__ static constexpr int Slot(int tap, int i) {
    return kIsRing ? (tap + i) % kHeld : tap;
  }
};

// The part's gates, by all of its blocks together.
template <typename Number>
__device__ void PrepareGates(const PrepareArgs& args, const RowPart& part) {
  const auto* projected = static_cast<const Number*>(args.projected);
  const int count = static_cast<int>(part.end - part.begin) * args.heads;
  const auto first = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const auto step = static_cast<int>(gridDim.y) * kThreads;
  for (int i = first; i < count; i += step) {
    const int64_t t = part.begin + i / args.heads;
    const int h = i % args.heads;
    const Number* x = projected + t * args.projected_stride;
    const auto a = static_cast<float>(x[args.a_column + h]);
    const auto b = static_cast<float>(x[args.b_column + h]);
    args.log2_decay[t * args.heads + h] =
        args.log2_rate[h] * SoftplusOf(a + args.dt_bias[h]);
    args.beta[t * args.heads + h] = args.beta_scale * SigmoidOf(b);
  }
}

// blockIdx is (tile of tokens, tile of channels).
template <typename Number, int kWidth, bool kAligned>
__global__ void __launch_bounds__(kThreads, kWidth > 0 ? kBlocksOfProcessor : 1)
    PrepareKernel(const __grid_constant__ PrepareArgs args, int tile) {
  using Eight = EightNumbers<Number>;
  const int64_t begin = int64_t{blockIdx.x} * tile;
  const int64_t end =
      min(min(begin + tile, args.tokens), int64_t{args.row_starts[args.rows]});
  if (begin >= end) return;
  const int mixed = MixedOf(args);
  const int keys = args.key_heads * args.key_dim;
  int column = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kEight;
  // Sums need all lanes of a warp.
  const bool is_here = column < mixed;
  if (!is_here) column = 0;
  const bool is_key = column < 2 * keys;
  const bool is_any_key = __any_sync(0xffffffffU, is_key);
  const float scale =
      column < keys ? 1.0F / sqrtf(static_cast<float>(args.key_dim)) : 1.0F;
  EightChannels<Number, kWidth, kAligned> channels;
  channels.LoadWeights(args, column);

  const auto* from = static_cast<const Number*>(args.projected) + column;
  auto* to = static_cast<Number*>(args.mixed) + column;
  ForRowParts(args, begin, end, [&](const RowPart& part) {
    const int count = static_cast<int>(part.end - part.begin);
    const Number* next = from + part.begin * args.projected_stride;
    Number* out = to + part.begin * args.mixed_stride;
    Eight inputs[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i >= count) break;
      inputs[i] = Eight::template Load<kAligned>(next);
      next += args.projected_stride;
    }
    channels.LoadPast(args, part, column);
    PrepareGates<Number>(args, part);
    for (int done = 0; done < count; done += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (done + i >= count) break;
        channels.Put(inputs[i], i);
        if (done + i + kAhead < count) {
          inputs[i] = Eight::template Load<kAligned>(next);
          next += args.projected_stride;
        }
        float y[kEight];
        channels.Take(args, i, y);
        if (is_any_key) {
          float sum = 0;
#pragma unroll
          for (const float each : y) sum = fmaf(each, each, sum);
          sum = SumOverNeighbours(sum, args.key_dim / kEight);
          const float factor =
              is_key ? scale * rsqrtf(sum + kHeadNormEps) : 1.0F;
#pragma unroll
          for (float& each : y) each *= factor;
        }
        if (is_here) Eight::Of(y).template Store<true>(out);
        out += args.mixed_stride;
      }
    }
  });
}

// The last inputs of each row, when all that read the window have done so.
template <typename Number, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    WindowKernel(const __grid_constant__ PrepareArgs args) {
  using Eight = EightNumbers<Number>;
  const int mixed = MixedOf(args);
  const int column =
      static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * kEight;
  if (column >= mixed) return;
  const auto* projected = static_cast<const Number*>(args.projected) + column;
  for (int row = static_cast<int>(blockIdx.y); row < args.rows;
       row += static_cast<int>(gridDim.y)) {
    const int32_t slot = args.slots[row];
    if (slot < 0) continue;
    const int64_t first = args.row_starts[row];
    const int64_t end = args.row_starts[row + 1];
    const uint32_t consumed = args.consumed == nullptr ? 0 : args.consumed[row];
    auto* window =
        static_cast<Number*>(args.window) + slot * args.window_stride + column;
    for (int64_t t = max(first, end - args.conv_width); t < end; ++t) {
      const uint32_t entry = (consumed + static_cast<uint32_t>(t - first)) %
                             static_cast<uint32_t>(args.conv_width);
      Eight::template Load<kAligned>(projected + t * args.projected_stride)
          .template Store<kAligned>(window + int64_t{entry} * mixed);
    }
  }
}

// `lanes` neighbouring lanes have a head, kEach times eight numbers each.
template <typename Number, int kEach, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ GatedDeltaFinishArgs args, int lanes) {
  using Eight = EightNumbers<Number>;
  int64_t tokens = args.tokens;
  if (args.row_starts != nullptr) {
    tokens = min(tokens, int64_t{args.row_starts[args.rows]});
  }
  const auto items = static_cast<uint32_t>(tokens * args.heads);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const uint32_t groups = kThreads / lanes;
  const float share = 1.0F / static_cast<float>(args.value_dim);
  float weight[kEach][kEight];
  bool is_here[kEach];
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    const int value = (each * lanes + lane) * kEight;
    is_here[each] = value < args.value_dim;
    EightNumbers<float>::Load<true>(args.norm_weight +
                                    (is_here[each] ? value : 0))
        .To(weight[each]);
  }
  // All of a warp go round as often: sums need all its lanes.
  for (uint32_t base = blockIdx.x * groups; base < items;
       base += gridDim.x * groups) {
    const uint32_t item = base + threadIdx.x / lanes;
    const bool is_item = item < items;
    const int64_t t = is_item ? item / args.heads : 0;
    const int64_t head = is_item ? item % args.heads : 0;
    float o[kEach][kEight];
    float z[kEach][kEight];
    float squares = 0;
#pragma unroll
    for (int each = 0; each < kEach; ++each) {
      const int64_t value = is_here[each] ? (each * lanes + lane) * kEight : 0;
      const int64_t at = head * args.value_dim + value;
      Eight::template Load<true>(static_cast<const Number*>(args.o) +
                                 t * args.o_stride + at)
          .To(o[each]);
      if (args.gate != GateKind::kNone) {
        Eight::template Load<kAligned>(static_cast<const Number*>(args.z) +
                                       t * args.z_stride + at)
            .To(z[each]);
      }
      if (!is_here[each]) continue;
#pragma unroll
      for (const float x : o[each]) squares = fmaf(x, x, squares);
    }
    squares = SumOverNeighbours(squares, lanes);
    const float scale = rsqrtf(squares * share + args.norm_eps);
#pragma unroll
    for (int each = 0; each < kEach; ++each) {
      if (!is_item || !is_here[each]) continue;
      const int64_t at = head * args.value_dim + (each * lanes + lane) * kEight;
#pragma unroll
      for (int c = 0; c < kEight; ++c) {
        float& y = o[each][c];
        y *= scale * weight[each][c];
        if (args.gate == GateKind::kSilu) y *= SiluOfNormal(z[each][c]);
        if (args.gate == GateKind::kSigmoid) y *= SigmoidOfNormal(z[each][c]);
      }
      Eight::Of(o[each]).template Store<true>(static_cast<Number*>(args.out) +
                                              t * args.out_stride + at);
    }
  }
}

bool IsAligned(const void* data, int64_t stride, StateNumber number) {
  const int64_t bytes = number == StateNumber::kFloat32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride * bytes % 16 == 0;
}

// Tokens of a block: so many that all blocks run at once, as each reads weights
// and a past of its own.
int TileOf(int64_t tokens, int64_t channel_tiles) {
  constexpr int64_t kTokensMin = 8;
  const int64_t at_once =
      int64_t{kBlocksOfProcessor} * ThisCard().multiprocessors;
  const int64_t blocks = std::max(int64_t{1}, at_once / channel_tiles);
  return static_cast<int>(std::max(kTokensMin, (tokens + blocks - 1) / blocks));
}

template <typename Number, int kWidth, bool kAligned>
cudaError_t LaunchPrepare(const PrepareArgs& args, cudaStream_t stream) {
  const int channel_tiles =
      (MixedOf(args) + kThreads * kEight - 1) / (kThreads * kEight);
  const int tile = TileOf(args.tokens, channel_tiles);
  const auto token_tiles =
      static_cast<unsigned>((args.tokens + tile - 1) / tile);
  PrepareKernel<Number, kWidth, kAligned>
      <<<dim3(token_tiles, channel_tiles), kThreads, 0, stream>>>(args, tile);
  cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  constexpr int kGridRowsMax = 1 << 15;
  WindowKernel<Number, kAligned>
      <<<dim3(channel_tiles, std::min(args.rows, kGridRowsMax)),
         kThreads,
         0,
         stream>>>(args);
  return cudaGetLastError();
}

template <typename Number>
cudaError_t PrepareOf(const PrepareArgs& args, cudaStream_t stream) {
  const bool is_aligned =
      IsAligned(args.projected, args.projected_stride, args.number) &&
      IsAligned(args.window, args.window_stride, args.number);
  if (args.conv_width == 4) {
    return is_aligned ? LaunchPrepare<Number, 4, true>(args, stream)
                      : LaunchPrepare<Number, 4, false>(args, stream);
  }
  return is_aligned ? LaunchPrepare<Number, 0, true>(args, stream)
                    : LaunchPrepare<Number, 0, false>(args, stream);
}

template <typename Number, int kEach>
cudaError_t LaunchFinish(const GatedDeltaFinishArgs& args,
                         cudaStream_t stream) {
  int lanes = 1;
  while (lanes * kEach * kEight < args.value_dim) lanes *= 2;
  const int64_t groups = kThreads / lanes;
  constexpr int64_t kBlocksMax = 4096;
  const auto blocks = static_cast<unsigned>(
      std::min(kBlocksMax, (args.tokens * args.heads + groups - 1) / groups));
  const bool is_aligned = args.gate == GateKind::kNone ||
                          IsAligned(args.z, args.z_stride, args.number);
  if (is_aligned) {
    FinishKernel<Number, kEach, true>
        <<<blocks, kThreads, 0, stream>>>(args, lanes);
  } else {
    FinishKernel<Number, kEach, false>
        <<<blocks, kThreads, 0, stream>>>(args, lanes);
  }
  return cudaGetLastError();
}

template <typename Number>
cudaError_t FinishOf(const GatedDeltaFinishArgs& args, cudaStream_t stream) {
  return args.value_dim <= kWarp * kEight
             ? LaunchFinish<Number, 1>(args, stream)
             : LaunchFinish<Number, 2>(args, stream);
}

}  // namespace

cudaError_t PrepareGatedDelta(const GatedDeltaPrepareArgs& args,
                              cudaStream_t stream) {
  const bool is_dim =
      args.key_dim == 64 || args.key_dim == 128 || args.key_dim == 256;
  if (args.rows < 0 || args.tokens < 0 || args.heads < 1 ||
      args.key_heads < 1 || args.heads % args.key_heads != 0 || !is_dim ||
      args.value_dim < 1 || args.value_dim % kEight != 0 ||
      args.conv_width < 2 || args.conv_width > kTapsMax ||
      reinterpret_cast<uintptr_t>(args.conv_weight) % 16 != 0 ||
      !IsAligned(args.mixed, args.mixed_stride, args.number)) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0 || args.tokens == 0) return cudaSuccess;
  return args.number == StateNumber::kFloat32
             ? PrepareOf<float>(args, stream)
             : PrepareOf<__nv_bfloat16>(args, stream);
}

cudaError_t FinishGatedDelta(const GatedDeltaFinishArgs& args,
                             cudaStream_t stream) {
  if (args.tokens < 0 || args.heads < 1 || args.value_dim < 1 ||
      args.value_dim > kValuesMax || args.value_dim % kEight != 0 ||
      args.tokens * args.heads > INT32_MAX ||
      reinterpret_cast<uintptr_t>(args.norm_weight) % 16 != 0 ||
      !IsAligned(args.o, args.o_stride, args.number) ||
      !IsAligned(args.out, args.out_stride, args.number)) {
    return cudaErrorInvalidValue;
  }
  if (args.tokens == 0) return cudaSuccess;
  return args.number == StateNumber::kFloat32
             ? FinishOf<float>(args, stream)
             : FinishOf<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
