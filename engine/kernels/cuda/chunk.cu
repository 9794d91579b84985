// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <type_traits>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_carry.cuh"
#include "engine/kernels/cuda/chunk_channel_system.cuh"
#include "engine/kernels/cuda/chunk_delta.cuh"
#include "engine/kernels/cuda/chunk_prepare.cuh"
#include "engine/kernels/cuda/chunk_segment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_state.cuh"
#include "engine/kernels/cuda/chunk_supply.cuh"
#include "engine/kernels/cuda/chunk_system.cuh"

namespace weir::engine {
namespace {

template <typename Form>
__device__ void InitShared(ChunkShared<Form>& shared) {
  for (auto& operands : shared.operands) {
    constexpr int kWords = sizeof(operands) / 16;
    auto* words = reinterpret_cast<uint4*>(&operands);
    for (int i = threadIdx.x; i < kWords; i += Form::kThreads) {
      words[i] = uint4{0, 0, 0, 0};
    }
  }
  if (threadIdx.x == 0) {
    for (uint64_t& barrier : shared.loaded) InitBarrier(&barrier, kWarpgroup);
    for (uint64_t& barrier : shared.prepared) InitBarrier(&barrier, kWarpgroup);
    for (uint64_t& barrier : shared.carried) {
      InitBarrier(&barrier, Form::kGroups * kWarpgroup);
    }
  }
  ShowToProducts();
  __syncthreads();
}

// Where a block's state comes from and where it goes: from nowhere it is zero,
// or the unit vectors.
struct StatePlace {
  StateMemory from;
  StateMemory to;
  int32_t first_unit = -1;
};

template <typename Form>
__device__ void CarryChunks(const ChunkArgs& args,
                            const ChunkPlace<Form>& place,
                            int group,
                            const StatePlace& state,
                            ChunkShared<Form>& shared) {
  using State =
      std::conditional_t<Form::kDelta, DeltaState<Form>, PlainState<Form>>;
  State carried(group);
  if (Form::kDelta && state.first_unit >= 0) {
    carried.LoadUnits(state.first_unit);
  } else {
    carried.Load(state.from);
  }
  const int chunks = place.chunks();
  constexpr int kOperands = Form::kDelta ? Form::kStages : 2;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    ChunkTokens<Form>& tokens = shared.tokens[chunk % Form::kStages];
    const int at = chunk % kOperands;
    Await(&shared.prepared[at], chunk / kOperands);
    if constexpr (Form::kDelta) {
      carried.Step(chunk, tokens, shared.operands[at], place.out_scale);
    } else {
      __nv_bfloat16* out = args.out + place.first_token * args.out_stride +
                           place.head * args.value_dim + place.first_value;
      carried.Step(tokens,
                   shared.operands[at],
                   place.TokensOf(chunk),
                   out + int64_t{chunk} * kChunkTokens * args.out_stride,
                   args.out_stride);
    }
    Arrive(&shared.carried[at]);
  }
  if (state.to.numbers != nullptr) carried.End(state.to);
}

// A session's state at rest, from the block's first value on.
__device__ StateMemory RestOf(const ChunkArgs& args,
                              int32_t row,
                              int64_t head_row) {
  const bool is_bfloat = args.state_number == StateNumber::kBfloat16;
  const int32_t slot = args.slots[row];
  const int64_t first = head_row * args.key_dim;
  const int64_t at = slot * args.state_stride + first;
  const uint32_t consumed = args.consumed == nullptr ? 0 : args.consumed[row];
  const RoundingKey key = {RoundingSeed(args.rounding_seed, consumed)};
  return {static_cast<uint8_t*>(args.state) + at * (is_bfloat ? 2 : 4),
          is_bfloat,
          key.From(static_cast<uint32_t>(first))};
}

// What this block has, which is blockIdx (values, head, row or place): false if
// there is nothing to do.
template <typename Form>
__device__ bool FindPlace(const ChunkLaunch& launch,
                          ChunkPlace<Form>& place,
                          StatePlace& state) {
  const ChunkArgs& args = launch.args;
  SegmentPlace at;
  if (!FindSegment(launch, static_cast<int32_t>(blockIdx.z), at)) return false;
  const int32_t slot = args.slots[at.row];
  const int32_t first = args.row_starts[at.row];
  const int32_t tokens = args.row_starts[at.row + 1] - first;
  if (slot < 0 || tokens == 0) return false;
  constexpr int kValues = Form::kGroups * 64;
  const int32_t blocks = args.value_dim / kValues;
  const auto block = static_cast<int32_t>(blockIdx.x);
  place.has_values = block < blocks;
  place.has_out = !at.joined;
  if (!place.has_values && !at.joined) return false;
  const ChunkSpan span = at.Span(tokens);
  place.first_token = first + int64_t{span.first} * kChunkTokens;
  place.tokens =
      min(tokens, span.end * kChunkTokens) - span.first * kChunkTokens;
  place.head = static_cast<int32_t>(blockIdx.y);
  place.key_head = place.head / (args.heads / args.key_heads);
  place.first_value = (place.has_values ? block : block - blocks) * kValues;
  place.out_scale = Form::kChannel ? 1.0F / ScaleOf(args).query : 1.0F;
  place.operands =
      static_cast<const typename Form::Operands*>(args.workspace) +
      (FirstChunk(args.row_starts, at.row) + span.first) * args.heads +
      place.head;

  const int64_t head_row =
      int64_t{place.head} * args.value_dim + place.first_value;
  const StateMemory own = RestOf(args, at.row, head_row);
  const auto start = [&](int32_t segment) {
    return StateMemory{
        launch.plan.starts +
        ((at.place + segment) * args.heads * args.value_dim + head_row) *
            args.key_dim};
  };
  if (!place.has_values) {
    state.first_unit = place.first_value;
    state.to.numbers = launch.plan.transfers +
                       ((at.place + at.segment) * args.heads + place.head) *
                           args.key_dim * args.key_dim +
                       int64_t{place.first_value} * args.key_dim;
    return true;
  }
  const bool fresh = args.consumed != nullptr && args.consumed[at.row] == 0;
  if (at.segment == 0) {
    if (!fresh) state.from = own;
  } else if (!at.joined) {
    state.from = start(at.segment);
  }
  if (at.is_last()) {
    state.to = own;
  } else if (at.joined || at.segment == 0) {
    state.to = start(at.segment + 1);
  }
  return true;
}

// A block has some values of one head and of one row or segment, or some rows
// of a segment's transfer.
template <typename Form>
__global__ void __launch_bounds__(Form::kThreads, 1)
    ChunkKernel(const __grid_constant__ ChunkLaunch launch) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<ChunkShared<Form>*>(memory);
  const ChunkArgs& args = launch.args;
  ChunkPlace<Form> place;
  StatePlace state;
  if (!FindPlace<Form>(launch, place, state)) return;
  InitShared(shared);

  // By a shuffle, for the compiler to see that a warp takes one branch.
  const int group =
      __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  // Of three warpgroups each has 168 registers a thread at first, of four 128.
  constexpr bool kThree = Form::kThreads == 3 * kWarpgroup;
  constexpr bool kFour = Form::kThreads == 4 * kWarpgroup;
  if (group == Form::kGroups) {
    if constexpr (Form::kDelta) {
      GiveRegisters<kFour ? 48 : 128>();
      CopyChunks(args, place, shared);
    } else if constexpr (kFour) {
      GiveRegisters<96>();
      PrepareChunks<Form, false, true>(args, place, shared);
    } else {
      PrepareChunks<Form, true, true>(args, place, shared);
    }
  } else if (group > Form::kGroups) {
    if constexpr (Form::kDelta) {
      GiveRegisters<kFour ? 48 : 128>();
      PrepareHalves(place, shared);
    } else if constexpr (kFour) {
      GiveRegisters<64>();
      PrepareChunks<Form, true, false>(args, place, shared);
    }
  } else {
    if constexpr (kThree) TakeRegisters<248>();
    if constexpr (kFour) TakeRegisters<Form::kDelta ? 208 : 176>();
    CarryChunks(args, place, group, state, shared);
  }
#endif
}

int64_t WorkspaceChunks(const ChunkArgs& args) {
  return args.tokens / kChunkTokens + args.rows;
}

// For segments of long rows, if there may be any.
int32_t PlaceCount(const ChunkArgs& args, const SegmentPlan& plan) {
  const int64_t longest = args.longest_row > 0
                              ? std::min<int64_t>(args.longest_row, args.tokens)
                              : args.tokens;
  return longest < plan.row_tokens
             ? 0
             : static_cast<int32_t>(args.tokens / plan.place_tokens());
}

template <typename Form>
cudaError_t LaunchSystem(const ChunkArgs& args, cudaStream_t stream) {
  constexpr int kTiles = Form::kKeyTiles;
  const dim3 grid(args.heads, static_cast<unsigned>(WorkspaceChunks(args)));
  const auto launch = [&](auto kernel, int threads, int bytes) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess) return status;
    kernel<<<grid, threads, bytes, stream>>>(args);
    return cudaGetLastError();
  };
  if constexpr (Form::kChannel) {
    return launch(ChannelSystemKernel<kTiles>,
                  kChannelThreads,
                  sizeof(ChannelShared<kTiles>));
  } else {
    return launch(
        ChunkSystemKernel<kTiles>, kWarpgroup, sizeof(SystemShared<kTiles>));
  }
}

template <typename Form>
cudaError_t LaunchPass(const ChunkLaunch& launch,
                       int32_t values,
                       int32_t places,
                       cudaStream_t stream) {
  constexpr int kBytes = sizeof(ChunkShared<Form>);
  const auto kernel = ChunkKernel<Form>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(values / (64 * Form::kGroups), launch.args.heads, places);
  kernel<<<grid, Form::kThreads, kBytes, stream>>>(launch);
  return cudaGetLastError();
}

template <int kKeyTiles>
cudaError_t LaunchJoin(const ChunkLaunch& launch, cudaStream_t stream) {
  const dim3 grid(
      launch.args.value_dim / kJoinValues, launch.args.heads, launch.places);
  JoinSegmentsKernel<64 * kKeyTiles><<<grid, kJoinThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

template <ChunkKind kKind, int kKeyTiles, int kGroups>
cudaError_t Launch(ChunkLaunch launch, cudaStream_t stream) {
  constexpr int kStages =
      kKeyTiles == 4 || kKind == ChunkKind::kChannel ? 2 : 3;
  using Form = ChunkForm<kKind, kKeyTiles, kGroups, kStages>;
  const ChunkArgs& args = launch.args;
  const int32_t values = args.value_dim;
  if constexpr (!Form::kDelta) {
    return LaunchPass<Form>(launch, values, args.rows, stream);
  } else {
    cudaError_t status = LaunchSystem<Form>(args, stream);
    if (status != cudaSuccess) return status;
    if (launch.places == 0) {
      return LaunchPass<Form>(launch, values, args.rows, stream);
    }
    status = LaunchPass<Form>(
        launch, values + args.key_dim, args.rows + launch.places, stream);
    if (status != cudaSuccess) return status;
    status = LaunchJoin<kKeyTiles>(launch, stream);
    if (status != cudaSuccess) return status;
    launch.pass = SegmentPass::kRest;
    return LaunchPass<Form>(launch, values, launch.places, stream);
  }
}

// Whether blocks of 128 values leave no multiprocessor idle that those of 64
// would use. The results are the same.
bool HasManyBlocks(const ChunkLaunch& launch) {
  const ChunkArgs& args = launch.args;
  const int64_t values =
      int64_t{args.rows} * args.value_dim +
      int64_t{launch.places} * (args.value_dim + args.key_dim);
  return 2 * args.heads * (values / 128) > ThisCard().multiprocessors;
}

template <ChunkKind kKind>
cudaError_t LaunchOfShape(const ChunkLaunch& launch, cudaStream_t stream) {
  const bool two_groups =
      launch.args.value_dim % 128 == 0 && HasManyBlocks(launch);
  switch (launch.args.key_dim) {
    case 64:
      return two_groups ? Launch<kKind, 1, 2>(launch, stream)
                        : Launch<kKind, 1, 1>(launch, stream);
    case 128:
      return two_groups ? Launch<kKind, 2, 2>(launch, stream)
                        : Launch<kKind, 2, 1>(launch, stream);
    case 256:
      if constexpr (kKind == ChunkKind::kChannel)
        return cudaErrorInvalidValue;
      else
        return Launch<kKind, 4, 1>(launch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

int64_t OperandBytes(const ChunkArgs& args) {
  if (args.decay != DecayKind::kKey) return sizeof(ChunkOperands<true>);
  return args.key_dim == 64 ? sizeof(ChannelOperands<1>)
                            : sizeof(ChannelOperands<2>);
}

bool IsAligned(const void* data, int64_t stride) {
  return data != nullptr && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride % 8 == 0;
}

bool IsSound(const ChunkArgs& args) {
  constexpr int32_t kGridMax = 65535;
  return (args.decay == DecayKind::kHead || args.decay == DecayKind::kKey) &&
         args.rows <= kGridMax && args.heads <= kGridMax &&
         args.key_heads > 0 && args.heads % args.key_heads == 0 &&
         args.value_dim >= 64 && args.value_dim % 64 == 0 &&
         IsAligned(args.q.data, args.q.stride) &&
         IsAligned(args.k.data, args.k.stride) &&
         IsAligned(args.v.data, args.v.stride) &&
         IsAligned(args.out, args.out_stride) &&
         args.log2_decay.data != nullptr && args.state != nullptr &&
         reinterpret_cast<uintptr_t>(args.state) % 16 == 0 &&
         args.state_stride %
                 (args.state_number == StateNumber::kFloat32 ? 4 : 8) ==
             0 &&
         (!HasSystem(args) ||
          (args.tokens >= 0 && WorkspaceChunks(args) <= kGridMax &&
           args.workspace != nullptr &&
           reinterpret_cast<uintptr_t>(args.workspace) % 16 == 0));
}

}  // namespace

int64_t ChunkWorkspaceBytes(const ChunkArgs& args) {
  if (!HasSystem(args)) return 0;
  const int64_t floats = int64_t{PlaceCount(args, PlanOf(args))} *
                         args.key_dim * (args.value_dim + args.key_dim);
  return args.heads * (WorkspaceChunks(args) * OperandBytes(args) +
                       floats * static_cast<int64_t>(sizeof(float)));
}

cudaError_t RecurrenceChunk(const ChunkArgs& args, cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;
  if (ThisCard().major != 9) {
    return cudaErrorNotSupported;
  }
  ChunkLaunch launch;
  launch.args = args;
  if (!HasSystem(args)) {
    return LaunchOfShape<ChunkKind::kPlain>(launch, stream);
  }
  launch.plan = PlanOf(args);
  launch.places = PlaceCount(args, launch.plan);
  launch.plan.starts = reinterpret_cast<float*>(
      static_cast<uint8_t*>(args.workspace) +
      WorkspaceChunks(args) * args.heads * OperandBytes(args));
  launch.plan.transfers = launch.plan.starts + int64_t{launch.places} *
                                                   args.heads * args.value_dim *
                                                   args.key_dim;
  return args.decay == DecayKind::kKey
             ? LaunchOfShape<ChunkKind::kChannel>(launch, stream)
             : LaunchOfShape<ChunkKind::kDelta>(launch, stream);
}

}  // namespace weir::engine
