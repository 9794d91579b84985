// SPDX-License-Identifier: Apache-2.0
//
// A block for each multiprocessor, whose warps have three kinds of work. Eight
// prepare the tokens of a unit (a row's heads that share a key) while those of
// the unit before are in use, and finish outputs; eight take slabs of the
// state, 16 values each, over the tokens by products on the tensor cores; and
// one thread has the copy engine bring slabs to shared memory, as many ahead as
// have a place, and take them back. So a state is read once and written once
// whatever its row's tokens.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/gated_delta_finish.cuh"
#include "engine/kernels/cuda/gated_delta_scores.cuh"
#include "engine/kernels/cuda/gated_delta_slab.cuh"
#include "engine/kernels/cuda/gated_delta_together.h"
#include "engine/kernels/cuda/gated_delta_units.cuh"

namespace weir::engine {
namespace {

constexpr int kSlabWarps = 8;  // of a unit with fewer slabs so many work
constexpr int kBlockThreads = kPieceThreads + kSlabWarps * kWarp;

// Pieces that are prepared or in use at a time.
constexpr int PiecesHeld(int key_dim) { return key_dim <= 128 ? 2 : 1; }

template <typename Number, int kKeyDim>
struct TogetherShared {
  static constexpr int kPieces = PiecesHeld(kKeyDim);
  static constexpr int kSlabs = kKeyDim <= 128 ? 16 : 8;

  alignas(128) Number slabs[kSlabs][kSlabRows * kKeyDim];
  Piece<kKeyDim> pieces[kPieces];
  UnitRows rows;
  float norm_weight[Piece<kKeyDim>::kValuesMax];
  uint64_t loaded[kSlabs];
  uint64_t ready[kPieces];  // prepared
  uint64_t done[kPieces];   // by all slabs of its unit
};

#if __CUDA_ARCH__ >= 900

// By one thread.
template <typename Number, int kKeyDim>
__device__ void LoadSlab(const GatedDeltaDecodeArgs& args,
                         const UnitPlan& plan,
                         const SlabCursor<Number, kKeyDim, kSlabWarps>& asked,
                         uint32_t place,
                         TogetherShared<Number, kKeyDim>& shared) {
  if (asked.IsAtEnd()) return;
  StartLoad(shared.slabs[place],
            asked.State(args, plan, shared.rows),
            asked.Bytes(args),
            &shared.loaded[place]);
}

// All pieces of a row's tokens on the slab in `place`.
template <typename Number, int kKeyDim>
__device__ void StepPieces(const GatedDeltaDecodeArgs& args,
                           const UnitPlan& plan,
                           const SlabCursor<Number, kKeyDim, kSlabWarps>& at,
                           uint32_t place,
                           TogetherShared<Number, kKeyDim>& shared) {
  using Shared = TogetherShared<Number, kKeyDim>;
  const int stride = ValueStride(args.value_dim);
  const uint32_t consumed = shared.rows.consumed[at.at.row];
  const int pieces = PiecesOf(shared.rows.tokens[at.at.row]);
  for (int p = 0; p < pieces; ++p) {
    const uint32_t held = (at.pieces + p) % Shared::kPieces;
    Piece<kKeyDim>& piece = shared.pieces[held];
    const RoundingKey key =
        KeyOf(args, consumed + p * kPieceTokens, at.Value(args, plan));
    WaitLoad(&shared.ready[held], (at.pieces + p) / Shared::kPieces % 2);
    // Lanes have parted, and the products need the warp together.
    __syncwarp();
    StepSlab<kKeyDim>(
        shared.slabs[place],
        consumed == 0 && p == 0,
        key,
        piece.heads[at.head],
        piece.values + at.head * kPieceTokens * stride + at.ValueOfHead(),
        stride,
        piece);
    __syncwarp();
    if (threadIdx.x % kWarp == 0) Arrive(&shared.done[held]);
  }
}

// A warp has each kSlabWarps-th slab of the block's. Slab n lies in place
// n % kSlabs, which is always the same warp's.
template <typename Number, int kKeyDim>
__device__ void StepSlabs(const GatedDeltaDecodeArgs& args,
                          const UnitPlan& plan,
                          UnitCursor begin,
                          int32_t warp,
                          TogetherShared<Number, kKeyDim>& shared) {
  using Shared = TogetherShared<Number, kKeyDim>;
  using Cursor = SlabCursor<Number, kKeyDim, kSlabWarps>;
  constexpr int kSlabs = Shared::kSlabs;
  static_assert(kSlabs % kSlabWarps == 0);
  // With more than one place, a slab is asked for when the warp's next has
  // come, so that the store before has had time.
  constexpr bool kAsksLate = kSlabs > kSlabWarps;
  const bool is_first_lane = threadIdx.x % kWarp == 0;
  Cursor asked = {begin, warp};
  asked.Settle(plan, shared.rows);
  Cursor at = asked;
  for (int index = warp; index < kSlabs; index += kSlabWarps) {
    if (is_first_lane) LoadSlab(args, plan, asked, index, shared);
    asked.Advance(plan, shared.rows);
  }
  asked = {begin, warp + kSlabs / kSlabWarps * SlabWarps<kSlabWarps>(plan)};
  asked.Settle(plan, shared.rows);
  const auto ask = [&](uint32_t place) {
    if (is_first_lane) {
      WaitStoresRead<0>();
      LoadSlab(args, plan, asked, place, shared);
    }
    asked.Advance(plan, shared.rows);
    __syncwarp();
  };
  uint32_t before = 0;
  for (uint32_t index = warp; !at.IsAtEnd(); index += kSlabWarps) {
    const uint32_t place = index % kSlabs;
    WaitLoad(&shared.loaded[place], index / kSlabs % 2);
    if (kAsksLate && index >= kSlabWarps) ask(before);
    StepPieces<Number, kKeyDim>(args, plan, at, place, shared);
    FenceStores();
    __syncwarp();
    if (is_first_lane) {
      StartStore(at.State(args, plan, shared.rows),
                 shared.slabs[place],
                 at.Bytes(args));
    }
    if (!kAsksLate) ask(place);
    before = place;
    at.Advance(plan, shared.rows);
  }
  if (is_first_lane) WaitStores();
}

template <typename Input, typename Number, int kKeyDim>
__device__ void PreparePieces(const GatedDeltaDecodeArgs& args,
                              const UnitPlan& plan,
                              bool keeps_window,
                              UnitCursor at,
                              TogetherShared<Number, kKeyDim>& shared) {
  constexpr uint32_t kPieces = TogetherShared<Number, kKeyDim>::kPieces;
  using Rows = FinishRows<Input, kKeyDim, kPieceTokens>;
  const auto finish = [&](uint32_t number) {
    const uint32_t held = number % kPieces;
    const PiecePlace& place = shared.pieces[held].place;
    const int rows = plan.unit_heads * kPieceTokens / Rows::kWarps;
    Rows of_warp;
    of_warp.first = 0;
    of_warp.Fetch(args, plan, place);
    WaitLoad(&shared.done[held], number / kPieces % 2);
    of_warp.Finish(
        args, plan, place, shared.pieces[held].values, shared.norm_weight);
    for (int first = Rows::kRows; first < rows; first += Rows::kRows) {
      of_warp.first = first;
      of_warp.Fetch(args, plan, place);
      of_warp.Finish(
          args, plan, place, shared.pieces[held].values, shared.norm_weight);
    }
    PieceBarrier();
  };
  uint32_t number = 0;
  for (; at.left > 0; at.Advance(plan, shared.rows)) {
    PiecePlace place;
    place.slot = shared.rows.slots[at.row];
    place.consumed = shared.rows.consumed[at.row];
    place.first = shared.rows.first[at.row];
    place.tokens = shared.rows.tokens[at.row];
    place.head = at.FirstHead(plan);
    place.key_head = place.head / (args.heads / args.key_heads);
    for (place.begin = 0; place.begin < place.tokens;
         place.begin += kPieceTokens, ++number) {
      place.count = min(kPieceTokens, place.tokens - place.begin);
      PieceInputs<Input, kKeyDim, kPieceTokens> inputs;
      FetchPiece(args, plan, place, inputs);
      // The piece that has this one's place in memory is the oldest.
      if (number >= kPieces) finish(number - kPieces);
      PreparePiece(args,
                   plan,
                   place,
                   keeps_window,
                   inputs,
                   shared.pieces[number % kPieces]);
      PieceBarrier();
      if (threadIdx.x == 0) Arrive(&shared.ready[number % kPieces]);
    }
  }
  for (uint32_t back = min(number, kPieces); back > 0; --back) {
    finish(number - back);
  }
}

#endif

template <typename Input, typename Number, int kKeyDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    TogetherKernel(const __grid_constant__ GatedDeltaDecodeArgs args,
                   const __grid_constant__ UnitPlan plan,
                   bool keeps_window) {
#if __CUDA_ARCH__ >= 900
  using Shared = TogetherShared<Number, kKeyDim>;
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  int32_t first_row;
  UnitCursor at = UnitCursor::Begin(args, plan, &first_row);
  shared.rows.Fill(args, plan, first_row);
  for (int v = threadIdx.x; v < args.value_dim; v += kBlockThreads) {
    shared.norm_weight[v] = args.norm_weight[v];
  }
  if (threadIdx.x == 0) {
    for (uint64_t& barrier : shared.loaded) InitCountedBarrier(&barrier, 1);
    for (uint64_t& barrier : shared.ready) InitCountedBarrier(&barrier, 1);
    for (uint64_t& barrier : shared.done) {
      InitCountedBarrier(&barrier, plan.slabs());
    }
    FenceBarriers();
  }
  __syncthreads();
  at.SkipRows(plan, shared.rows);
  if (threadIdx.x < kPieceThreads) {
    PreparePieces<Input>(args, plan, keeps_window, at, shared);
  } else {
    const auto warp = static_cast<int32_t>(threadIdx.x - kPieceThreads) / kWarp;
    if (warp < SlabWarps<kSlabWarps>(plan)) {
      StepSlabs(args, plan, at, warp, shared);
    }
  }
#endif
}

// The last inputs of each row that is taken to its window, when all units of it
// have read it. blockIdx is (block of columns, row).
template <typename Input>
__global__ void KeepWindowKernel(const __grid_constant__ GatedDeltaDecodeArgs
                                     args,
                                 const __grid_constant__ UnitPlan plan) {
  const int32_t row = static_cast<int32_t>(blockIdx.y);
  const int32_t slot = args.slots[row];
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t mixed = int64_t{2} * args.key_heads * args.key_dim +
                        int64_t{args.heads} * args.value_dim;
  const int64_t last = args.row_starts[row + 1];
  const auto tokens = static_cast<int32_t>(last - args.row_starts[row]);
  if (slot < 0 || column >= mixed || tokens < plan.tokens_min ||
      tokens > plan.tokens_max) {
    return;
  }
  const auto* x = static_cast<const Input*>(args.projected);
  Input* window =
      static_cast<Input*>(args.window) + slot * args.window_stride + column;
  const uint32_t end = args.consumed[row] + static_cast<uint32_t>(tokens);
  for (int32_t back = 1; back <= min(tokens, kPieceTaps); ++back) {
    const uint32_t entry = (end - static_cast<uint32_t>(back)) % kPieceTaps;
    window[entry * mixed] = x[(last - back) * args.projected_stride + column];
  }
}

UnitPlan PlanFor(const GatedDeltaDecodeArgs& args, int multiprocessors) {
  UnitPlan plan;
  plan.unit_heads = UnitHeads(args, multiprocessors, kUnitHeadsMax);
  plan.units_of_row = args.heads / plan.unit_heads;
  plan.slabs_of_head = (args.value_dim + kSlabRows - 1) / kSlabRows;
  plan.tokens_min = 2;
  plan.tokens_max = kPieceTokens * PiecesHeld(args.key_dim);
  return plan;
}

template <typename Input, typename Number, int kKeyDim>
cudaError_t Launch(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(TogetherShared<Number, kKeyDim>);
  static_assert(kBytes <= 227 << 10);
  const auto kernel = TogetherKernel<Input, Number, kKeyDim>;
  cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const int multiprocessors = ThisCard().multiprocessors;
  const UnitPlan plan = PlanFor(args, multiprocessors);
  const bool keeps_window = plan.unit_heads == args.heads / args.key_heads;
  kernel<<<multiprocessors, kBlockThreads, kBytes, stream>>>(
      args, plan, keeps_window);
  status = cudaGetLastError();
  if (status != cudaSuccess || keeps_window) return status;
  constexpr int kColumns = 256;
  const int64_t mixed = int64_t{2} * args.key_heads * args.key_dim +
                        int64_t{args.heads} * args.value_dim;
  const dim3 grid(static_cast<uint32_t>((mixed + kColumns - 1) / kColumns),
                  args.rows);
  KeepWindowKernel<Input><<<grid, kColumns, 0, stream>>>(args, plan);
  return cudaGetLastError();
}

template <typename Input, typename Number>
cudaError_t OfKeyDim(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  switch (args.key_dim) {
    case 64:
      return Launch<Input, Number, 64>(args, stream);
    case 128:
      return Launch<Input, Number, 128>(args, stream);
    case 256:
      return Launch<Input, Number, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename Input>
cudaError_t OfNumber(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  return args.state_number == StateNumber::kFloat32
             ? OfKeyDim<Input, float>(args, stream)
             : OfKeyDim<Input, __nv_bfloat16>(args, stream);
}

// Neighbouring numbers are read by four.
bool AreQuads(const GatedDeltaDecodeArgs& args) {
  const uintptr_t bytes = args.number == StateNumber::kFloat32 ? 16 : 8;
  const auto is_aligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  return is_aligned(args.projected) && is_aligned(args.out) &&
         is_aligned(args.window) && args.projected_stride % 4 == 0 &&
         args.out_stride % 4 == 0 && args.window_stride % 4 == 0 &&
         args.z_column % 4 == 0 && args.value_dim % 4 == 0;
}

}  // namespace

int32_t TogetherTokensMax(const GatedDeltaDecodeArgs& args) {
  const Card card = ThisCard();
  const bool fits =
      args.conv_width == kPieceTaps &&
      (args.key_dim == 64 || args.key_dim == 128 || args.key_dim == 256) &&
      args.value_dim <= UnitValuesMax(args.key_dim);
  const bool taken = card.has_copy_engine() && fits && AreQuads(args) &&
                     args.rows / card.multiprocessors + 2 <= kUnitRowsHeld;
  return taken ? kPieceTokens * PiecesHeld(args.key_dim) : 0;
}

cudaError_t DecodeTogether(const GatedDeltaDecodeArgs& args,
                           cudaStream_t stream) {
  return args.number == StateNumber::kFloat32
             ? OfNumber<float>(args, stream)
             : OfNumber<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
