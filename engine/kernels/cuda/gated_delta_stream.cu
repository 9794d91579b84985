// SPDX-License-Identifier: Apache-2.0
//
// A block for each multiprocessor, whose warps have two kinds of work and wait
// for each other at barriers in shared memory only. Four prepare units (a row's
// heads that share a key), as many ahead as have a place, and finish their
// outputs. Twelve take slabs of the states, 2,048 numbers each: the copy engine
// brings a warp's slabs to its own shared memory, ahead; it reads one into
// registers, asks for another in its place, steps it and writes it to device
// memory.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/gated_delta_head.cuh"
#include "engine/kernels/cuda/gated_delta_part.cuh"
#include "engine/kernels/cuda/gated_delta_run.cuh"
#include "engine/kernels/cuda/gated_delta_stage.cuh"
#include "engine/kernels/cuda/gated_delta_stream.h"
#include "engine/kernels/cuda/gated_delta_units.cuh"

namespace weir::engine {
namespace {

#if __CUDA_ARCH__ >= 900

// By one warp, of `warps` that share the block's slabs.
template <typename Number, int kKeyDim>
__device__ void StepSlabs(const GatedDeltaDecodeArgs& args,
                          const UnitPlan& plan,
                          const UnitCursor& begin,
                          int32_t warp,
                          int32_t warps,
                          StreamShared<Number, kKeyDim>& shared) {
  constexpr int kStages = StreamShared<Number, kKeyDim>::kStages;
  const bool is_first_lane = threadIdx.x % kWarp == 0;
  SlabFeed<Number, kKeyDim> feed = {begin, warp, warps};
  if (is_first_lane) {
    for (int stage = 0; stage < kStages; ++stage) {
      feed.Ask(args, plan, warp, stage, shared);
    }
  }
  __syncwarp();
  for (uint32_t turn = 0;; ++turn) {
    const uint32_t stage = turn % kStages;
    const SlabPlace at = shared.places[warp][stage];
    if (at.state == nullptr) return;
    Slab<Number, kKeyDim> slab;
    WaitLoad(&shared.loaded[warp][stage], turn / kStages % 2);
    slab.Load(shared.slabs[warp][stage]);
    if (at.consumed == 0) slab.Clear();
    // All lanes have read what is to be written over.
    __syncwarp();
    if (is_first_lane) feed.Ask(args, plan, warp, stage, shared);
    const uint32_t held = PlaceOfUnit(at.unit);
    WaitLoad(&shared.ready[held], PhaseOfUnit(at.unit));
    __syncwarp();
    slab.Step(at, args.rounding_seed, shared.units[held]);
    __syncwarp();
    if (is_first_lane) Arrive(&shared.stepped[held]);
  }
}

// By one of the kPrepareWarps.
template <typename Input, typename Number, int kKeyDim>
__device__ void PrepareUnits(const GatedDeltaDecodeArgs& args,
                             const UnitPlan& plan,
                             UnitCursor at,
                             int32_t warp,
                             StreamShared<Number, kKeyDim>& shared) {
  const bool is_first_lane = threadIdx.x % kWarp == 0;
  // The heads of a unit by turns.
  const auto finish = [&](uint32_t number) {
    const uint32_t held = PlaceOfUnit(number);
    WaitLoad(&shared.stepped[held], PhaseOfUnit(number));
    __syncwarp();
    for (int head = (warp + number) % 2; head < plan.unit_heads; head += 2) {
      FinishHead<Input>(args, shared.units[held], head, shared.norm_weight);
    }
    __syncwarp();
    if (is_first_lane) Arrive(&shared.finished[held]);
  };
  UnitInputs<Input, kKeyDim> inputs;
  UnitPart part;
  if (at.left > 0) {
    part = UnitPart::Of(at, plan, shared.rows, warp);
    FetchUnit(args, plan, part, inputs);
  }
  uint32_t number = 0;
  for (; at.left > 0; ++number) {
    const UnitInputs<Input, kKeyDim> of_this = inputs;
    const UnitPart this_part = part;
    at.Advance(plan, shared.rows);
    if (at.left > 0) {
      part = UnitPart::Of(at, plan, shared.rows, warp);
      FetchUnit(args, plan, part, inputs);
    }
    const uint32_t held = PlaceOfUnit(number);
    if (number >= kUnitsHeld) {
      if (this_part.IsOfKeys()) finish(number - kUnitsHeld);
      WaitLoad(&shared.finished[held], PhaseOfUnit(number - kUnitsHeld));
      __syncwarp();
    }
    PrepareUnit(args, plan, this_part, of_this, shared.units[held]);
    __syncwarp();
    if (is_first_lane) Arrive(&shared.ready[held]);
    KeepInputs(args, plan, this_part, of_this);
  }
  if (warp >= 2) return;
  for (uint32_t back = min(number, kUnitsHeld); back > 0; --back) {
    finish(number - back);
  }
}

template <typename Number, int kKeyDim>
__device__ void InitBarriers(const UnitPlan& plan,
                             StreamShared<Number, kKeyDim>& shared) {
  for (auto& of_warp : shared.loaded) {
    for (uint64_t& barrier : of_warp) InitCountedBarrier(&barrier, 1);
  }
  for (int i = 0; i < kUnitsHeld; ++i) {
    InitCountedBarrier(&shared.ready[i], kPrepareWarps);
    InitCountedBarrier(&shared.stepped[i], plan.slabs());
    InitCountedBarrier(&shared.finished[i], 2);
  }
  FenceBarriers();
}

#endif

template <typename Input, typename Number, int kKeyDim>
__global__ void __launch_bounds__(kStreamThreads, 1)
    StreamKernel(const __grid_constant__ GatedDeltaDecodeArgs args,
                 const __grid_constant__ UnitPlan plan) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<StreamShared<Number, kKeyDim>*>(memory);
  int32_t first_row;
  UnitCursor at = UnitCursor::Begin(args, plan, &first_row);
  shared.rows.Fill(args, plan, first_row);
  for (int v = static_cast<int>(threadIdx.x); v < args.value_dim;
       v += kStreamThreads) {
    shared.norm_weight[v] = args.norm_weight[v];
  }
  if (threadIdx.x == kStreamThreads - 1) InitBarriers(plan, shared);
  __syncthreads();
  at.SkipRows(plan, shared.rows);
  const auto warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  if (warp < kPrepareWarps) {
    PrepareUnits<Input>(args, plan, at, warp, shared);
    return;
  }
  const int32_t warps = min(plan.slabs(), kStepWarps);
  if (warp - kPrepareWarps < warps) {
    StepSlabs(args, plan, at, warp - kPrepareWarps, warps, shared);
  }
#endif
}

UnitPlan PlanFor(const GatedDeltaDecodeArgs& args, int multiprocessors) {
  UnitPlan plan;
  plan.unit_heads = UnitHeads(args, multiprocessors, kStreamHeadsMax);
  plan.units_of_row = args.heads / plan.unit_heads;
  plan.slabs_of_head = args.value_dim * args.key_dim / kSlabNumbers;
  plan.tokens_min = 1;
  plan.tokens_max = 1;
  return plan;
}

template <typename Input, typename Number, int kKeyDim>
cudaError_t Launch(const GatedDeltaDecodeArgs& args, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(StreamShared<Number, kKeyDim>);
  static_assert(kBytes <= 227 << 10);
  const auto kernel = StreamKernel<Input, Number, kKeyDim>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const int multiprocessors = ThisCard().multiprocessors;
  kernel<<<multiprocessors, kStreamThreads, kBytes, stream>>>(
      args, PlanFor(args, multiprocessors));
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

// Neighbouring numbers are read in pairs.
bool ArePairs(const GatedDeltaDecodeArgs& args) {
  const uintptr_t bytes = args.number == StateNumber::kFloat32 ? 8 : 4;
  const auto is_aligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  return is_aligned(args.projected) && is_aligned(args.out) &&
         is_aligned(args.window) && args.projected_stride % 2 == 0 &&
         args.out_stride % 2 == 0 && args.window_stride % 2 == 0 &&
         args.z_column % 2 == 0;
}

}  // namespace

bool CanStreamGatedDelta(const GatedDeltaDecodeArgs& args) {
  const Card card = ThisCard();
  return card.has_copy_engine() && args.conv_width == kPieceTaps &&
         args.value_dim <= UnitValuesMax(args.key_dim) &&
         args.value_dim * args.key_dim % kSlabNumbers == 0 && ArePairs(args) &&
         args.rows / card.multiprocessors + 2 <= kUnitRowsHeld;
}

cudaError_t StreamGatedDelta(const GatedDeltaDecodeArgs& args,
                             cudaStream_t stream) {
  const bool is_float = args.state_number == StateNumber::kFloat32;
  if (args.number == StateNumber::kFloat32) {
    return is_float ? OfKeyDim<float, float>(args, stream)
                    : OfKeyDim<float, __nv_bfloat16>(args, stream);
  }
  return is_float ? OfKeyDim<__nv_bfloat16, float>(args, stream)
                  : OfKeyDim<__nv_bfloat16, __nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
