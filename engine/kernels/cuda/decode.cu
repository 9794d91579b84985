// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include <type_traits>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/cuda/head_sums.cuh"
#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {
namespace {

// Where a block's head and token lie.
struct Place {
  int32_t head;
  int32_t key_head;
  int32_t first_row;  // of V
  int32_t rows;
};

// Brings a token's operands into shared memory; columns of key_dim on are zero.
template <typename R, int kKeyDim, int kRows>
__device__ void LoadToken(const RecurrenceArgs& args,
                          const Place& place,
                          int64_t t,
                          TokenOperands<kKeyDim, kRows>& to) {
  const int key_dim = args.key_dim;
  const float* q = args.q.data + t * args.q.stride + place.key_head * key_dim;
  const float* k = args.k.data + t * args.k.stride + place.key_head * key_dim;
  const bool has_beta = args.beta.data != nullptr;
  const float beta =
      has_beta ? args.beta.data[t * args.beta.stride + place.head] : 1.0F;
  const auto of_head = [&](const TokenRows& x) {
    return x.data + t * x.stride + place.head * key_dim;
  };
  for (int c = threadIdx.x; c < kKeyDim; c += kTileThreads) {
    const bool here = c < key_dim;
    const float key = here ? k[c] : 0.0F;
    to.q[c] = here ? q[c] : 0.0F;
    to.k[c] = key;
    if constexpr (R::kDecay == DecayKind::kKey) {
      to.d[c] = here ? exp2f(of_head(args.log2_decay)[c]) : 0.0F;
    }
    if constexpr (R::kCorrection == Correction::kPair) {
      to.a[c] = here ? of_head(args.a)[c] : 0.0F;
      const bool has_b = args.b.data != nullptr;
      to.b[c] = !here ? 0.0F : has_b ? of_head(args.b)[c] : beta * key;
    }
    if constexpr (R::kRead == ReadOrder::kBeforeWrite) {
      to.b[c] = here ? args.bonus[place.head * key_dim + c] * key : 0.0F;
    }
  }
  const int64_t value = int64_t{place.head} * args.value_dim + place.first_row;
  // With a correction along the key, beta scales the value as well.
  const float scale =
      R::kCorrection == Correction::kPair && has_beta ? beta : 1.0F;
  for (int r = threadIdx.x; r < kRows; r += kTileThreads) {
    const bool here = r < place.rows;
    to.v[r] = here ? scale * args.v.data[t * args.v.stride + value + r] : 0.0F;
    if constexpr (R::kDecay == DecayKind::kValue) {
      const float* decay = args.log2_decay.data + t * args.log2_decay.stride;
      to.value_decay[r] = here ? exp2f(decay[value + r]) : 0.0F;
    }
  }
  if (threadIdx.x == 0) {
    to.beta = beta;
    if constexpr (R::kDecay == DecayKind::kHead) {
      const float log2_decay =
          args.log2_decay.data[t * args.log2_decay.stride + place.head];
      to.decay = exp2f(log2_decay);
      if constexpr (R::kHasRest || R::kHasSums) {
        to.summed = SummedDecayOf(log2_decay);
      }
    }
  }
}

struct Nothing {
  Nothing() = default;
  template <typename... Args>
  __device__ explicit Nothing(const Args&...) {}
};

// What a rule does not have takes no place.
template <bool kHas, typename T>
using Where = std::conditional_t<kHas, T, Nothing>;

// A block has one tile of one row's head: blockIdx is (tile, head, row).
template <typename R, typename Number, int kKeyDim, int kPasses, bool kWhole>
__global__ void __launch_bounds__(kTileThreads, 2)
    DecodeKernel(const __grid_constant__ DecodeArgs args) {
  using Tile = StateTile<Number, kKeyDim, kPasses>;
  static_assert(Tile::kRows <= kTileThreads && kKeyDim <= kTileThreads);
  __shared__ TokenOperands<kKeyDim, Tile::kRows> tokens[2];
  __shared__ Where<R::kHasSums, SumOperands<Tile::kRows>> sum_operands[2];
  const RecurrenceArgs& step = args.step;
  const int32_t batch_row = static_cast<int32_t>(blockIdx.z);
  const int32_t slot = step.slots[batch_row];
  const int64_t first = step.row_starts[batch_row];
  const int64_t last = step.row_starts[batch_row + 1];
  if (slot < 0 || first == last) return;

  Place place;
  place.head = static_cast<int32_t>(blockIdx.y);
  place.key_head = place.head / (step.heads / step.key_heads);
  place.first_row = static_cast<int32_t>(blockIdx.x) * Tile::kRows;
  place.rows = min(Tile::kRows, step.value_dim - place.first_row);
  const int64_t value = int64_t{place.head} * step.value_dim + place.first_row;
  Number* state = static_cast<Number*>(args.state) + slot * step.state_stride +
                  value * step.key_dim;
  const bool fresh = args.consumed != nullptr && args.consumed[batch_row] == 0;
  Tile tile;
  tile.template Load<kWhole>(state, place.rows, step.key_dim, fresh);
  Where<R::kHasRest, Tile> rest;
  float* rest_at = nullptr;
  if constexpr (R::kHasRest) {
    rest_at = step.rest + slot * step.rest_stride + value * step.key_dim;
    rest.template Load<kWhole>(rest_at, place.rows, step.key_dim, fresh);
  }
  Where<R::kHasSums, HeadSums> sums(
      args, slot, place.head, place.first_row, place.rows, fresh);
  const auto load = [&](int64_t t) {
    LoadToken<R>(step, place, t, tokens[t & 1]);
    if constexpr (R::kHasSums) {
      sums.TakeValues(t, tokens[t & 1].v, sum_operands[t & 1]);
    }
  };
  load(first);
  __syncthreads();
  for (int64_t t = first; t < last; ++t) {
    if (t + 1 < last) load(t + 1);
    const auto& token = tokens[t & 1];
    auto& sum_token = sum_operands[t & 1];
    float* out = step.out + t * step.out_stride + value;
    const auto emit = [&](int row, float o) {
      if (row >= place.rows) return;
      if constexpr (R::kHasSums) o += sums.Added(sum_token, row);
      out[row] = o;
    };
    if constexpr (R::kHasRest) {
      StepSummed(tile, rest, token, emit);
    } else {
      StepToken<R>(tile, token, emit);
    }
    if constexpr (R::kHasSums) {
      sums.TakeKeys(token.summed, token.k, token.q, sum_token);
    }
    __syncthreads();
    if constexpr (R::kHasSums) sums.EmitDot(t, sum_token);
  }
  const uint32_t consumed =
      args.consumed == nullptr ? 0 : args.consumed[batch_row];
  const RoundingKey key = {RoundingSeed(args.rounding_seed, consumed),
                           static_cast<uint32_t>(value * step.key_dim)};
  tile.template Store<kWhole>(state, place.rows, step.key_dim, key);
  if constexpr (R::kHasRest) {
    rest.template Store<kWhole>(rest_at, place.rows, step.key_dim, key);
  }
  if constexpr (R::kHasSums) sums.Store(step.slots[batch_row]);
}

using Launcher = cudaError_t (*)(const DecodeArgs& args, cudaStream_t stream);

template <typename R, typename Number, int kKeyDim, int kPasses, bool kWhole>
cudaError_t Launch(const DecodeArgs& args, cudaStream_t stream) {
  constexpr int kRows = StateTile<Number, kKeyDim, kPasses>::kRows;
  const dim3 grid((args.step.value_dim + kRows - 1) / kRows,
                  args.step.heads,
                  args.step.rows);
  DecodeKernel<R, Number, kKeyDim, kPasses, kWhole>
      <<<grid, kTileThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

// Few heads of one pass each leave the card idle less than many of four.
constexpr int64_t kManyStates = 512;

template <typename R, typename Number, int kKeyDim>
Launcher OfTile(const RecurrenceArgs& step) {
  // As many registers with a rest.
  constexpr int kMany = R::kHasRest ? 2 : 4;
  if (step.key_dim != kKeyDim) return Launch<R, Number, kKeyDim, 1, false>;
  constexpr int kPassRows = StateTile<Number, kKeyDim, 1>::kPassRows;
  const bool is_many = int64_t{step.rows} * step.heads >= kManyStates &&
                       step.value_dim >= kMany * kPassRows;
  return is_many ? Launch<R, Number, kKeyDim, kMany, true>
                 : Launch<R, Number, kKeyDim, 1, true>;
}

template <typename R, typename Number>
Launcher OfKeyDim(const RecurrenceArgs& step) {
  if (step.key_dim <= 64) return OfTile<R, Number, 64>(step);
  if (step.key_dim <= 128) return OfTile<R, Number, 128>(step);
  return OfTile<R, Number, 256>(step);
}

template <DecayKind kDecay, Correction kCorrection, ReadOrder kRead>
Launcher OfNumber(const DecodeArgs& args) {
  using R = Rule<kDecay, kCorrection, kRead>;
  return args.number == StateNumber::kFloat32
             ? OfKeyDim<R, float>(args.step)
             : OfKeyDim<R, __nv_bfloat16>(args.step);
}

// Of one decay a head without a correction, with a rest or sums or both.
Launcher OfSums(const DecodeArgs& args) {
  constexpr DecayKind kDecay = DecayKind::kHead;
  constexpr Correction kNone = Correction::kNone;
  constexpr ReadOrder kAfter = ReadOrder::kAfterWrite;
  const bool has_sums = args.sums.keys != nullptr;
  if (args.number == StateNumber::kBfloat16) {
    using R = Rule<kDecay, kNone, kAfter, false, true>;
    return args.step.rest != nullptr ? nullptr
                                     : OfKeyDim<R, __nv_bfloat16>(args.step);
  }
  if (args.step.rest == nullptr) return nullptr;
  using R = Rule<kDecay, kNone, kAfter, true, false>;
  using Sums = Rule<kDecay, kNone, kAfter, true, true>;
  return has_sums ? OfKeyDim<Sums, float>(args.step)
                  : OfKeyDim<R, float>(args.step);
}

// The combinations that mixers have, and no others; null for those.
Launcher OfRule(const DecodeArgs& args) {
  constexpr ReadOrder kAfter = ReadOrder::kAfterWrite;
  const RecurrenceArgs& step = args.step;
  const bool has_a = step.a.data != nullptr;
  const bool has_beta = step.beta.data != nullptr;
  if (step.rest != nullptr || args.sums.keys != nullptr) {
    const bool is_plain = step.decay == DecayKind::kHead &&
                          step.read == kAfter && !has_a && !has_beta;
    return is_plain ? OfSums(args) : nullptr;
  }
  if (step.read == ReadOrder::kBeforeWrite) {
    if (step.decay != DecayKind::kKey || has_a || has_beta) return nullptr;
    return OfNumber<DecayKind::kKey,
                    Correction::kNone,
                    ReadOrder::kBeforeWrite>(args);
  }
  switch (step.decay) {
    case DecayKind::kHead:
      if (has_a) return nullptr;
      return has_beta
                 ? OfNumber<DecayKind::kHead, Correction::kDelta, kAfter>(args)
                 : OfNumber<DecayKind::kHead, Correction::kNone, kAfter>(args);
    case DecayKind::kKey:
      if (!has_a && has_beta) return nullptr;
      return has_a ? OfNumber<DecayKind::kKey, Correction::kPair, kAfter>(args)
                   : OfNumber<DecayKind::kKey, Correction::kNone, kAfter>(args);
    case DecayKind::kValue:
      if (has_a || has_beta) return nullptr;
      return OfNumber<DecayKind::kValue, Correction::kNone, kAfter>(args);
  }
  return nullptr;
}

bool IsAligned(const void* base, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride_bytes % 16 == 0;
}

bool IsSound(const KeySums& sums) {
  if (sums.keys == nullptr) return sums.query_sums == nullptr;
  const bool has_floor = sums.values != nullptr && sums.counts != nullptr;
  return sums.dots != nullptr && (sums.query_sums == nullptr || has_floor);
}

bool IsSound(const DecodeArgs& args) {
  const RecurrenceArgs& step = args.step;
  const int64_t number_bytes = args.number == StateNumber::kFloat32 ? 4 : 2;
  constexpr int32_t kGridMax = 65535;
  return args.state != nullptr && step.state == nullptr &&
         step.rows <= kGridMax && step.heads <= kGridMax &&
         step.key_heads > 0 && step.heads % step.key_heads == 0 &&
         step.key_dim >= 1 && step.key_dim <= kDecodeKeyDimMax &&
         step.value_dim >= 1 && IsSound(args.sums) &&
         IsAligned(args.state, step.state_stride * number_bytes) &&
         IsAligned(step.rest, step.rest_stride * 4);
}

}  // namespace

cudaError_t RecurrenceDecode(const DecodeArgs& args, cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  const Launcher launch = OfRule(args);
  if (launch == nullptr) return cudaErrorInvalidValue;
  if (args.step.rows == 0) return cudaSuccess;
  return launch(args, stream);
}

}  // namespace weir::engine
