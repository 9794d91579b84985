// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include "engine/kernels/cuda/decode.h"
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
      to.decay =
          exp2f(args.log2_decay.data[t * args.log2_decay.stride + place.head]);
    }
  }
}

// A block has one tile of one row's head: blockIdx is (tile, head, row).
template <typename R, typename Number, int kKeyDim, int kPasses, bool kWhole>
__global__ void __launch_bounds__(kTileThreads, 2)
    DecodeKernel(const __grid_constant__ DecodeArgs args) {
  using Tile = StateTile<Number, kKeyDim, kPasses>;
  __shared__ TokenOperands<kKeyDim, Tile::kRows> tokens[2];
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
  LoadToken<R>(step, place, first, tokens[first & 1]);
  __syncthreads();
  for (int64_t t = first; t < last; ++t) {
    if (t + 1 < last) LoadToken<R>(step, place, t + 1, tokens[(t + 1) & 1]);
    float* out = step.out + t * step.out_stride + value;
    StepToken<R>(tile, tokens[t & 1], [&](int row, float o) {
      if (row < place.rows) out[row] = o;
    });
    __syncthreads();
  }
  const uint32_t consumed =
      args.consumed == nullptr ? 0 : args.consumed[batch_row];
  const RoundingKey key = {RoundingSeed(args.rounding_seed, consumed),
                           static_cast<uint32_t>(value * step.key_dim)};
  tile.template Store<kWhole>(state, place.rows, step.key_dim, key);
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
  constexpr int kMany = 4;
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

// The combinations that mixers have, and no others; null for those.
Launcher OfRule(const DecodeArgs& args) {
  constexpr ReadOrder kAfter = ReadOrder::kAfterWrite;
  const RecurrenceArgs& step = args.step;
  const bool has_a = step.a.data != nullptr;
  const bool has_beta = step.beta.data != nullptr;
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

bool IsSound(const DecodeArgs& args) {
  const RecurrenceArgs& step = args.step;
  const int64_t number_bytes = args.number == StateNumber::kFloat32 ? 4 : 2;
  constexpr int32_t kGridMax = 65535;
  return args.state != nullptr && step.state == nullptr &&
         step.rest == nullptr && step.rows <= kGridMax &&
         step.heads <= kGridMax && step.key_heads > 0 &&
         step.heads % step.key_heads == 0 && step.key_dim >= 1 &&
         step.key_dim <= kDecodeKeyDimMax && step.value_dim >= 1 &&
         reinterpret_cast<uintptr_t>(args.state) % 16 == 0 &&
         step.state_stride * number_bytes % 16 == 0;
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
