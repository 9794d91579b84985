// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/cuda/chunk_barrier.cuh"
#include "engine/kernels/cuda/chunk_carry.cuh"
#include "engine/kernels/cuda/chunk_delta.cuh"
#include "engine/kernels/cuda/chunk_prepare.cuh"
#include "engine/kernels/cuda/chunk_shared.cuh"
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

template <typename Form>
__device__ void CarryChunks(const ChunkArgs& args,
                            const ChunkPlace& place,
                            int group,
                            float* state,
                            bool fresh,
                            ChunkShared<Form>& shared) {
  using State =
      std::conditional_t<Form::kDelta, DeltaState<Form>, PlainState<Form>>;
  State carried(group, state);
  carried.Load(fresh);
  const int chunks = place.chunks();
  __nv_bfloat16* out = args.out + place.first_token * args.out_stride +
                       place.head * args.value_dim + place.first_value;
  constexpr int kOperands = Form::kDelta ? Form::kStages : 2;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    ChunkTokens<Form>& tokens = shared.tokens[chunk % Form::kStages];
    const int at = chunk % kOperands;
    Await(&shared.prepared[at], chunk / kOperands);
    carried.Step(chunk,
                 tokens,
                 shared.operands[at],
                 place.TokensOf(chunk),
                 out + int64_t{chunk} * kChunkTokens * args.out_stride,
                 args.out_stride);
    Arrive(&shared.carried[at]);
  }
  carried.End();
}

// A block has some values of one row's head: blockIdx is (values, head, row).
template <typename Form>
__global__ void __launch_bounds__(Form::kThreads, 1)
    ChunkKernel(const __grid_constant__ ChunkArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<ChunkShared<Form>*>(memory);
  const int32_t row = static_cast<int32_t>(blockIdx.z);
  const int32_t slot = args.slots[row];
  ChunkPlace place;
  place.first_token = args.row_starts[row];
  place.tokens = args.row_starts[row + 1] - args.row_starts[row];
  if (slot < 0 || place.tokens == 0) return;
  place.head = static_cast<int32_t>(blockIdx.y);
  place.key_head = place.head / (args.heads / args.key_heads);
  place.first_value = static_cast<int32_t>(blockIdx.x) * Form::kGroups * 64;
  InitShared(shared);

  // By a shuffle, for the compiler to see that a warp takes one branch.
  const int group =
      __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  // Of three warpgroups each has 168 registers a thread at first, of four 128.
  constexpr bool kThree = Form::kThreads == 3 * kWarpgroup;
  constexpr bool kFour = Form::kThreads == 4 * kWarpgroup;
  if (group == Form::kGroups) {
    if constexpr (Form::kDelta) {
      if constexpr (kThree) GiveRegisters<56>();
      const auto* operands =
          static_cast<const ChunkOperands<true>*>(args.workspace) +
          FirstChunk(args.row_starts, row) * args.heads + place.head;
      CopyChunks(args, place, operands, shared);
    } else if constexpr (kFour) {
      GiveRegisters<96>();
      PrepareChunks<Form, false, true>(args, place, shared);
    } else {
      PrepareChunks<Form, true, true>(args, place, shared);
    }
  } else if (group > Form::kGroups) {
    if constexpr (kFour) {
      GiveRegisters<64>();
      PrepareChunks<Form, true, false>(args, place, shared);
    }
  } else {
    if constexpr (kThree) TakeRegisters<224>();
    if constexpr (kFour) TakeRegisters<176>();
    const bool fresh = args.consumed != nullptr && args.consumed[row] == 0;
    float* state = args.state + slot * args.state_stride +
                   (int64_t{place.head} * args.value_dim + place.first_value) *
                       args.key_dim;
    CarryChunks(args, place, group, state, fresh, shared);
  }
#endif
}

int64_t WorkspaceChunks(const ChunkArgs& args) {
  return args.tokens / kChunkTokens + args.rows;
}

template <int kKeyTiles>
cudaError_t LaunchSystem(const ChunkArgs& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SystemShared<kKeyTiles>);
  const auto kernel = ChunkSystemKernel<kKeyTiles>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(args.heads, static_cast<unsigned>(WorkspaceChunks(args)));
  kernel<<<grid, kWarpgroup, kBytes, stream>>>(args);
  return cudaGetLastError();
}

template <bool kDelta, int kKeyTiles, int kGroups>
cudaError_t Launch(const ChunkArgs& args, cudaStream_t stream) {
  if constexpr (kDelta) {
    const cudaError_t status = LaunchSystem<kKeyTiles>(args, stream);
    if (status != cudaSuccess) return status;
  }
  using Form = ChunkForm < kDelta, kKeyTiles, kGroups, kKeyTiles<4 ? 3 : 2>;
  constexpr int kBytes = sizeof(ChunkShared<Form>);
  const auto kernel = ChunkKernel<Form>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(args.value_dim / (64 * kGroups), args.heads, args.rows);
  kernel<<<grid, Form::kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
}

int DeviceNumber(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  const bool known =
      cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&value, which, device) == cudaSuccess;
  return known ? value : 0;
}

// Whether blocks of 128 values leave no multiprocessor idle that those of 64
// would use. The results are the same.
bool HasManyBlocks(const ChunkArgs& args) {
  const int64_t blocks =
      int64_t{args.rows} * args.heads * (args.value_dim / 128);
  return 2 * blocks > DeviceNumber(cudaDevAttrMultiProcessorCount);
}

template <bool kDelta>
cudaError_t LaunchOfShape(const ChunkArgs& args, cudaStream_t stream) {
  const bool two_groups = args.value_dim % 128 == 0 && HasManyBlocks(args);
  switch (args.key_dim) {
    case 64:
      return two_groups ? Launch<kDelta, 1, 2>(args, stream)
                        : Launch<kDelta, 1, 1>(args, stream);
    case 128:
      return two_groups ? Launch<kDelta, 2, 2>(args, stream)
                        : Launch<kDelta, 2, 1>(args, stream);
    case 256:
      return Launch<kDelta, 4, 1>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

bool IsAligned(const void* data, int64_t stride) {
  return data != nullptr && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride % 8 == 0;
}

bool IsSound(const ChunkArgs& args) {
  constexpr int32_t kGridMax = 65535;
  return args.rows <= kGridMax && args.heads <= kGridMax &&
         args.key_heads > 0 && args.heads % args.key_heads == 0 &&
         args.value_dim >= 64 && args.value_dim % 64 == 0 &&
         IsAligned(args.q.data, args.q.stride) &&
         IsAligned(args.k.data, args.k.stride) &&
         IsAligned(args.v.data, args.v.stride) &&
         IsAligned(args.out, args.out_stride) &&
         args.log2_decay.data != nullptr && args.state != nullptr &&
         reinterpret_cast<uintptr_t>(args.state) % 16 == 0 &&
         args.state_stride % 4 == 0 &&
         (args.beta.data == nullptr ||
          (args.tokens >= 0 && WorkspaceChunks(args) <= kGridMax &&
           args.workspace != nullptr &&
           reinterpret_cast<uintptr_t>(args.workspace) % 16 == 0));
}

}  // namespace

int64_t ChunkWorkspaceBytes(const ChunkArgs& args) {
  if (args.beta.data == nullptr) return 0;
  return WorkspaceChunks(args) * args.heads *
         static_cast<int64_t>(sizeof(ChunkOperands<true>));
}

cudaError_t RecurrenceChunk(const ChunkArgs& args, cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;
  if (DeviceNumber(cudaDevAttrComputeCapabilityMajor) != 9) {
    return cudaErrorNotSupported;
  }
  return args.beta.data != nullptr ? LaunchOfShape<true>(args, stream)
                                   : LaunchOfShape<false>(args, stream);
}

}  // namespace weir::engine
