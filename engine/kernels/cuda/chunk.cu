// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <type_traits>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_alone.cuh"
#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_channel_system.cuh"
#include "engine/kernels/cuda/chunk_place.cuh"
#include "engine/kernels/cuda/chunk_prepare.cuh"
#include "engine/kernels/cuda/chunk_segment.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
#include "engine/kernels/cuda/chunk_step.cuh"
#include "engine/kernels/cuda/chunk_supply.cuh"
#include "engine/kernels/cuda/chunk_system.cuh"

namespace weir::engine {
namespace {

template <typename Form>
__device__ void ClearOperands(ChunkShared<Form>& shared) {
  for (auto& operands : shared.operands) {
    constexpr int kWords = sizeof(operands) / 16;
    auto* words = reinterpret_cast<uint4*>(&operands);
    for (int i = threadIdx.x; i < kWords; i += Form::kThreads) {
      words[i] = uint4{0, 0, 0, 0};
    }
  }
}

template <typename Form>
__device__ void InitShared(ChunkShared<Form>& shared) {
  ClearOperands(shared);
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

template <typename Form>
__device__ void CarryChunks(const ChunkArgs& args,
                            const ChunkPlace<Form>& place,
                            int group,
                            const StatePlace& state,
                            ChunkShared<Form>& shared) {
  CarriedState<Form> carried(group);
  BeginState<Form>(state, carried);
  const int chunks = place.chunks();
  constexpr int kOperands = Form::kDelta ? Form::kStages : 2;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    ChunkTokens<Form>& tokens = shared.tokens[chunk % Form::kStages];
    const int at = chunk % kOperands;
    Await(&shared.prepared[at], chunk / kOperands);
    StepChunk<Form>(args, place, chunk, tokens, shared.operands[at], carried);
    Arrive(&shared.carried[at]);
  }
  if (state.to.numbers != nullptr) carried.End(state.to);
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

// The same where there is no wgmma.
template <typename Form>
__global__ void __launch_bounds__(Form::kThreads)
    ChunkAloneKernel(const __grid_constant__ ChunkLaunch launch) {
#ifndef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<ChunkShared<Form>*>(memory);
  ChunkPlace<Form> place;
  StatePlace state;
  if (!FindPlace<Form>(launch, place, state)) return;
  ClearOperands(shared);
  __syncthreads();
  CarryAlone(launch.args, place, state, shared);
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
  const auto kernel = [] {
    if constexpr (Form::kAlone) {
      return ChunkAloneKernel<Form>;
    } else {
      return ChunkKernel<Form>;
    }
  }();
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

template <typename Form>
cudaError_t LaunchForm(ChunkLaunch launch, cudaStream_t stream) {
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
    status = LaunchJoin<Form::kKeyTiles>(launch, stream);
    if (status != cudaSuccess) return status;
    launch.pass = SegmentPass::kRest;
    return LaunchPass<Form>(launch, values, launch.places, stream);
  }
}

template <ChunkKind kKind, int kKeyTiles, int kGroups>
cudaError_t Launch(const ChunkLaunch& launch, cudaStream_t stream) {
  constexpr int kStages =
      kKeyTiles == 4 || kKind == ChunkKind::kChannel ? 2 : 3;
  return LaunchForm<ChunkForm<kKind, kKeyTiles, kGroups, kStages>>(launch,
                                                                   stream);
}

template <ChunkKind kKind, int kKeyTiles>
using AloneForm = ChunkForm<kKind, kKeyTiles, 1, 1>;

// Shared memory of a block of a launch where there is no wgmma.
template <ChunkKind kKind>
int AloneBytes(int32_t key_dim) {
  constexpr bool kChannel = kKind == ChunkKind::kChannel;
  const auto of = [](auto form) {
    using Form = decltype(form);
    if constexpr (Form::kChannel) {
      return std::max(sizeof(ChunkShared<Form>),
                      sizeof(ChannelShared<Form::kKeyTiles>));
    } else {
      return sizeof(ChunkShared<Form>);
    }
  };
  const size_t bytes = key_dim == 64 ? of(AloneForm<kKind, 1>())
                       : key_dim == 128
                           ? of(AloneForm<kKind, 2>())
                           : of(AloneForm < kKind, kChannel ? 2 : 4 > ());
  return static_cast<int>(bytes);
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
cudaError_t LaunchAlone(const ChunkLaunch& launch, cudaStream_t stream) {
  switch (launch.args.key_dim) {
    case 64:
      return LaunchForm<AloneForm<kKind, 1>>(launch, stream);
    case 128:
      return LaunchForm<AloneForm<kKind, 2>>(launch, stream);
    case 256:
      if constexpr (kKind == ChunkKind::kChannel)
        return cudaErrorInvalidValue;
      else
        return LaunchForm<AloneForm<kKind, 4>>(launch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <ChunkKind kKind>
cudaError_t LaunchOfShape(const ChunkLaunch& launch, cudaStream_t stream) {
  if (!ThisCard().has_copy_engine()) return LaunchAlone<kKind>(launch, stream);
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

bool CanChunk(DecayKind decay, int32_t key_dim) {
  const Card& card = ThisCard();
  if (card.major >= 9) return true;
  if (card.major < 8) return false;
  const int bytes = decay == DecayKind::kKey
                        ? AloneBytes<ChunkKind::kChannel>(key_dim)
                        : std::max(AloneBytes<ChunkKind::kPlain>(key_dim),
                                   AloneBytes<ChunkKind::kDelta>(key_dim));
  return bytes <= card.shared_bytes;
}

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
  if (!CanChunk(args.decay, args.key_dim)) return cudaErrorNotSupported;
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
