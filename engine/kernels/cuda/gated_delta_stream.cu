// SPDX-License-Identifier: Apache-2.0
//
// A block for each multiprocessor. It has two groups of threads, each with its
// own run of heads, and each group three stages of shared memory: while it
// works on one, the copy engine fills the next and empties the last. What the
// heads' tokens bring is read a head ahead. So neither waits for device memory,
// and the threads move none of the state themselves.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/gated_delta_head.cuh"
#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/gated_delta_stage.cuh"
#include "engine/kernels/cuda/gated_delta_stream.h"
#include "engine/kernels/cuda/state_tile.cuh"

namespace weir::engine {
namespace {

constexpr int kGroups = 2;

#if __CUDA_ARCH__ >= 900

// One head's tiles, as they come; hands each back and asks for another.
template <typename Number, int kKeyDim>
__device__ void StepHead(const GatedDeltaDecodeArgs& args,
                         bool fresh,
                         RoundingKey key,
                         const HeadOperands& head,
                         TileCursor<Number, kKeyDim>& done,
                         TileCursor<Number, kKeyDim>& asked,
                         StageTurn& turn,
                         GroupShared<kKeyDim>& shared) {
  constexpr int kTileRows = TileCursor<Number, kKeyDim>::kTileRows;
  for (int first = 0; first < args.value_dim; first += kTileRows) {
    auto* numbers = reinterpret_cast<Number*>(shared.stages[turn.stage]);
    const int rows = args.value_dim - first;
    const RoundingKey tile_key = key.From(first * kKeyDim);
    WaitLoad(&shared.loaded[turn.stage], turn.phase);
    if (rows >= kTileRows) {
      StepStage<Number, kKeyDim, true>(numbers,
                                       rows,
                                       fresh,
                                       tile_key,
                                       head,
                                       shared.v + first,
                                       shared.o + first);
    } else {
      StepStage<Number, kKeyDim, false>(numbers,
                                        rows,
                                        fresh,
                                        tile_key,
                                        head,
                                        shared.v + first,
                                        shared.o + first);
    }
    FenceStores();
    GroupBarrier();
    if (GroupThread() == 0) {
      StartStore(done.State(args, shared), numbers, done.Bytes(args));
      done.Advance(args, shared);
      // The stage before this one is free when its store has read it.
      WaitStoresRead<1>();
      asked.Load(args, shared, turn.Before());
    }
    turn.Advance();
  }
}

template <typename Input, typename Number, int kWidth, int kKeyDim>
__device__ void WorkThrough(const GatedDeltaDecodeArgs& args,
                            RowHead at,
                            GroupShared<kKeyDim>& shared) {
  using Tile = StateTile<Number, kKeyDim, 1, Memory::kShared>;
  using Row = RowInputs<Input, kWidth>;
  TileCursor<Number, kKeyDim> done = {at};
  TileCursor<Number, kKeyDim> asked = {at};
  if (GroupThread() == 0) {
    for (int stage = 0; stage < kStages - 1; ++stage) {
      asked.Load(args, shared, stage);
    }
  }
  if (at.left <= 0) return;
  const int sharing = args.heads / args.key_heads;
  HeadInputs<kWidth, kKeyDim> inputs;
  Row row = Row::Of(args, shared, at.row);
  int key_head = at.head / sharing;
  bool with_keys = true;
  FetchHead(args, row, at.head, key_head, true, inputs);
  StageTurn turn;
  while (at.left > 0) {
    const int head = at.head;
    if (with_keys) {
      PrepareKeys(args, row, key_head, head % sharing == 0, inputs, shared);
    }
    PrepareValues(args, row, head, inputs, shared);
    GroupBarrier();
    float z[HeadInputs<kWidth, kKeyDim>::kEach];
#pragma unroll
    for (int i = 0; i < inputs.kEach; ++i) z[i] = inputs.z[i];
    const int64_t token = row.token;
    const bool fresh = row.consumed == 0;
    const RoundingKey key = KeyOf(args, row.consumed, head * args.value_dim);
    const int32_t row_before = at.row;
    at.Advance(args, shared);
    if (at.left > 0) {
      if (at.row != row_before) row = Row::Of(args, shared, at.row);
      const int next_key = at.head / sharing;
      with_keys = at.row != row_before || next_key != key_head;
      key_head = next_key;
      FetchHead(args, row, at.head, key_head, with_keys, inputs);
    }
    const HeadOperands operands = OperandsOf<Tile>(shared);
    StepHead<Number>(args, fresh, key, operands, done, asked, turn, shared);
    FinishHead<Input>(args, token, head, z, shared);
  }
  if (GroupThread() == 0) WaitStores();
}

#endif

template <typename Input, typename Number, int kWidth, int kKeyDim>
__global__ void __launch_bounds__(kGroups* kTileThreads, 1)
    StreamKernel(const __grid_constant__ GatedDeltaDecodeArgs args) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  const int group = static_cast<int>(threadIdx.x) / kTileThreads;
  auto& shared = reinterpret_cast<GroupShared<kKeyDim>*>(memory)[group];
  const int64_t items = int64_t{args.rows} * args.heads;
  const int64_t index = int64_t{blockIdx.x} * kGroups + group;
  const int64_t count = int64_t{gridDim.x} * kGroups;
  const int64_t begin = items * index / count;
  RowHead at;
  at.row = 0;
  at.head = static_cast<int32_t>(begin % args.heads);
  at.left = static_cast<int32_t>(items * (index + 1) / count - begin);
  const auto first_row = static_cast<int32_t>(begin / args.heads);
  for (int i = GroupThread(); i < kRowsHeld && first_row + i < args.rows;
       i += kTileThreads) {
    const int32_t row = first_row + i;
    const bool is_single = args.row_tokens_max == 1 ||
                           args.row_starts[row + 1] - args.row_starts[row] == 1;
    shared.slots[i] = is_single ? args.slots[row] : -1;
    shared.consumed[i] = args.consumed[row];
    shared.tokens[i] = args.row_tokens_max == 1 ? row : args.row_starts[row];
  }
  if (GroupThread() == 0) {
    for (uint64_t& loaded : shared.loaded) InitBarrier(&loaded);
  }
  GroupBarrier();
  at.SkipPadding(args, shared);
  WorkThrough<Input, Number, kWidth>(args, at, shared);
#endif
}

struct Card {
  int multiprocessors = 0;
  bool has_copy_engine = false;
};

// The card of the calling thread.
Card ThisCard() {
  int device = 0;
  int major = 0;
  Card card;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(
      &card.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  card.has_copy_engine = major >= 9;
  return card;
}

template <typename Input, typename Number, int kWidth, int kKeyDim>
cudaError_t Launch(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  constexpr size_t kBytes = kGroups * sizeof(GroupShared<kKeyDim>);
  const auto kernel = StreamKernel<Input, Number, kWidth, kKeyDim>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<ThisCard().multiprocessors,
           kGroups * kTileThreads,
           kBytes,
           stream>>>(args);
  return cudaGetLastError();
}

template <typename Input, typename Number, int kWidth>
cudaError_t OfKeyDim(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  switch (args.key_dim) {
    case 64:
      return Launch<Input, Number, kWidth, 64>(args, stream);
    case 128:
      return Launch<Input, Number, kWidth, 128>(args, stream);
    case 256:
      return Launch<Input, Number, kWidth, 256>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

bool CanStreamGatedDelta(const GatedDeltaDecodeArgs& args) {
  const Card card = ThisCard();
  const int64_t groups = int64_t{card.multiprocessors} * kGroups;
  return card.has_copy_engine && args.conv_width == 4 &&
         args.value_dim <= 2 * args.key_dim &&
         args.rows / groups + 2 <= kRowsHeld;
}

cudaError_t StreamGatedDelta(const GatedDeltaDecodeArgs& args,
                             cudaStream_t stream) {
  const bool is_float = args.state_number == StateNumber::kFloat32;
  if (args.number == StateNumber::kFloat32) {
    return is_float ? OfKeyDim<float, float, 4>(args, stream)
                    : OfKeyDim<float, __nv_bfloat16, 4>(args, stream);
  }
  return is_float ? OfKeyDim<__nv_bfloat16, float, 4>(args, stream)
                  : OfKeyDim<__nv_bfloat16, __nv_bfloat16, 4>(args, stream);
}

}  // namespace weir::engine
