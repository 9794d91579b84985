// SPDX-License-Identifier: Apache-2.0
//
// A block has some values of one row: those of heads that share a key, or a
// part of one head's. Each warp has rows of the state of its own, which the
// copy engine brings; three blocks of a multiprocessor wait for each other's
// sake.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/gated_delta_ring.h"
#include "engine/kernels/cuda/gated_delta_ring_block.cuh"
#include "engine/kernels/cuda/gated_delta_ring_fold.cuh"
#include "engine/kernels/cuda/gated_delta_ring_place.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"
#include "engine/kernels/cuda/gated_delta_ring_stream.h"
#include "engine/kernels/cuda/gated_delta_ring_token.cuh"

namespace weir::engine {
namespace {

constexpr int kBlocksOfMultiprocessor = 2;

// The squares of the head's outputs: groups of 16 in the order of the values,
// however the head is cut. `group`: the head's first among the block's.
template <int kKeyDim>
__device__ float SquaresOfHead(const RingPlan& plan,
                               int group,
                               int value_dim,
                               const RingShared<kKeyDim>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float squares = 0;
#if __CUDA_ARCH__ >= 900
  if (plan.parts > 1) {
    namespace groups = cooperative_groups;
    const groups::cluster_group cluster = groups::this_cluster();
    cluster.sync();
    const int each = plan.values / kSquaresGroup;
    if (lane * kSquaresGroup < value_dim) {
      squares =
          cluster.map_shared_rank(shared.o_squares, lane / each)[lane % each];
    }
    // No block may end while another reads its squares.
    cluster.sync();
    return SumOverLanes<kWarp>(squares);
  }
#endif
  __syncthreads();
  if (lane * kSquaresGroup < value_dim) {
    squares = shared.o_squares[group + lane];
  }
  return SumOverLanes<kWarp>(squares);
}

// blockIdx is (part of the head, heads, row). False for a block without work.
template <int kKeyDim>
__device__ bool Locate(const GatedDeltaDecodeArgs& args,
                       const RingPlan& plan,
                       RingPlace& place) {
  const auto row = static_cast<int32_t>(blockIdx.z);
  const auto group = static_cast<int32_t>(blockIdx.y);
  const bool is_single = args.row_tokens_max == 1;
  place.slot = args.slots[row];
  place.consumed = args.consumed[row];
  place.token = is_single ? row : args.row_starts[row];
  if (place.slot < 0) return false;
  if (!is_single && args.row_starts[row + 1] - place.token != 1) return false;
  place.head = group * plan.heads;
  place.key_head = plan.sharing == 1 ? group : group / plan.sharing;
  place.first_value = static_cast<int32_t>(blockIdx.x) * plan.values;
  place.values =
      min(plan.values, plan.heads * args.value_dim - place.first_value);
  place.value = place.head * args.value_dim + place.first_value;
  place.is_fresh = place.consumed == 0;
  place.has_keys = blockIdx.x == 0 && place.key_head * plan.sharing == group;
  return true;
}

// The block's rows, when all else of them lies in shared memory. kFold: the
// rows are written, with all that the ring holds.
template <int kKeyDim, bool kFold>
__device__ void WorkThrough(const RingPlace& place,
                            const RingStream<kKeyDim>& stream,
                            float2 scale,
                            RingShared<kKeyDim>& shared) {
  using Rows = RingRows<kKeyDim>;
  RingKeys<kKeyDim> keys(shared.q, shared.k, scale);
  const float kq = shared.met[kRingHeld].y;
#pragma unroll 1
  for (int turn = 0; stream.First(turn) < place.values; ++turn) {
    if constexpr (kFold) keys.Reload(shared.q, shared.k, scale);
    const int first = stream.First(turn);
    float2 products = {0, 0};
    if (!kFold || !place.is_fresh) {
      stream.Wait(turn);
      products = RowProducts<kKeyDim>(stream.Stage(turn), keys);
    }
    if constexpr (!kFold) stream.Next(turn);
    const RowStep step = StepRow<kKeyDim>(
        first, place.values, products, kq, shared.values, shared.u, shared.o);
    if constexpr (kFold) {
      const FoldEntries entries = {
          shared.keys[0], kRingValuesMax, shared.k, scale.y};
      const float* const from[2] = {
          shared.entries[0] + min(first + Rows::Row(0), place.values - 1),
          shared.entries[0] + min(first + Rows::Row(1), place.values - 1)};
      FoldRows<kKeyDim>(stream.Stage(turn),
                        const_cast<float*>(stream.state),
                        first,
                        place.values,
                        place.is_fresh,
                        step,
                        entries,
                        from);
      if (!place.is_fresh) stream.Next(turn);
    }
  }
}

template <typename Input, int kWidth, int kKeyDim>
__global__ void __launch_bounds__(kRingThreads, kBlocksOfMultiprocessor)
    RingKernel(const __grid_constant__ GatedDeltaRingArgs all, RingPlan plan) {
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<RingShared<kKeyDim>*>(memory);
  const GatedDeltaDecodeArgs& args = all.step;
  RingPlace place;
  if (!Locate<kKeyDim>(args, plan, place)) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const RingStream<kKeyDim> stream = {static_cast<float*>(args.state) +
                                          place.slot * args.state_stride +
                                          int64_t{place.value} * kKeyDim,
                                      place.values,
                                      shared.stages[warp][0],
                                      shared.loaded[warp]};
  if (!place.is_fresh) stream.Begin();

  const Ring ring = Ring::Of(all, place.slot);
  place.held = place.is_fresh ? 0 : ring.Held(place.head);
  place.is_fold = place.is_fresh || place.held == kRingHeld;
  const int places = plan.reads_ahead ? kRingHeld : place.held;
  // The thread's value: of which of the block's heads, and which of the head's.
  const bool has_value = thread < place.values;
  const int of_block = has_value ? thread : 0;
  const int head = HeadOf(plan.heads, plan.head_factor, of_block);
  const int of_head = place.first_value + of_block - head * args.value_dim;
  const RingInputs<Input, kWidth> inputs(args, place);
  const int column = 2 * args.key_heads * kKeyDim + place.value + of_block;
  ChannelInputs<kWidth> channel;
  inputs.Fetch(args, column, channel);
  if (has_value) inputs.Keep(column);
  PrepareRingKeys(args, place, inputs, shared);
  RingEntries<kKeyDim> entries;
  entries.FetchKeys(ring.Keys(place.key_head), places);
  float* const kept = ring.Values(place.head + head) + of_head;
  entries.FetchValues(kept, args.value_dim, places);
  const float z = args.gate == GateKind::kNone
                      ? 0.0F
                      : static_cast<float>(
                            inputs.x[args.z_column + place.value + of_block]);
  const float v = Convolved(channel);
  RingGate gate;
  if (warp < plan.heads) {
    gate.Fetch(args, inputs.x, ring, place.head + warp, place.held);
    gate.Chain(shared.rest[warp]);
    if (thread % kWarp == 0) shared.beta[warp] = gate.beta;
  }
  __syncthreads();
  const float2 scale = ScaleOfKeys<kKeyDim>(shared);
  MeetKeys(entries, place.held, place.is_fold, scale, shared);
  if (place.has_keys && !place.is_fold) {
    for (int c = thread; c < kKeyDim; c += kRingThreads) {
      ring.Keys(place.key_head)[place.held * kKeyDim + c] =
          shared.k[c] * scale.y;
    }
  }
  __syncthreads();
  MeetValues(entries, place.held, place.is_fold, head, v, shared);
  __syncthreads();
  if (place.is_fold) {
    WorkThrough<kKeyDim, true>(place, stream, scale, shared);
  } else {
    WorkThrough<kKeyDim, false>(place, stream, scale, shared);
  }
  __syncthreads();
  const float o = has_value ? shared.o[thread] : 0.0F;
  if (has_value && !place.is_fold) {
    kept[place.held * args.value_dim] = shared.u[thread];
  }
  const float sum = SumOverLanes<kSquaresGroup>(o * o);
  if (thread % kSquaresGroup == 0) {
    shared.o_squares[thread / kSquaresGroup] = sum;
  }
  const float total = SquaresOfHead(
      plan, head * args.value_dim / kSquaresGroup, args.value_dim, shared);
  // Every block of a head has read its marks by now.
  if (blockIdx.x == 0 && warp < plan.heads && thread % kWarp == 0) {
    if (!place.is_fold) ring.Marks(place.head + warp)[place.held] = gate.decay;
    ring.SetHeld(place.head + warp, place.is_fold ? 0 : place.held + 1);
  }
  if (!has_value) return;
  const float y = GatedOutput(args, o, total, args.norm_weight[of_head], z);
  static_cast<Input*>(
      args.out)[place.token * args.out_stride + place.value + thread] =
      static_cast<Input>(y);
}

// blockIdx is (head, row).
template <int kKeyDim>
__global__ void __launch_bounds__(kRingThreads)
    FoldKernel(const __grid_constant__ GatedDeltaRingArgs all) {
  using Rows = RingRows<kKeyDim>;
  const GatedDeltaDecodeArgs& args = all.step;
  const auto row = static_cast<int32_t>(blockIdx.y);
  const auto head = static_cast<int32_t>(blockIdx.x);
  const int32_t slot = args.slots[row];
  const int32_t tokens = args.row_tokens_max == 1
                             ? 1
                             : args.row_starts[row + 1] - args.row_starts[row];
  if (slot < 0 || tokens < args.row_tokens_min) return;
  const Ring ring = Ring::Of(all, slot);
  const int held = args.consumed[row] == 0 ? 0 : ring.Held(head);
  __shared__ float rest[kRingSteps];
  if (Rows::Warp() == 0) {
    RingGate gate;
    gate.decay = 1;
    gate.entry = gate.Lane() < held ? ring.Marks(head)[gate.Lane()] : 1.0F;
    gate.Chain(rest);
  }
  __syncthreads();
  if (threadIdx.x == 0) ring.SetHeld(head, 0);
  if (held == 0) return;
  float* const state = static_cast<float*>(args.state) +
                       slot * args.state_stride +
                       int64_t{head} * args.value_dim * kKeyDim;
  const float* const keys = ring.Keys(head / (args.heads / args.key_heads));
  for (int first = Rows::Warp() * Rows::kRows; first < args.value_dim;
       first += kRingWarps * Rows::kRows) {
    TwoRows rows;
    const float* u[2];
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int at = min(first + Rows::Row(which), args.value_dim - 1);
      u[which] = ring.Values(head) + at;
#pragma unroll
      for (int piece = 0; piece < Rows::kPieces; ++piece) {
        float* to = rows.numbers[which] + 4 * piece;
        ToFloats(__ldcs(reinterpret_cast<const float4*>(
                     state + int64_t{at} * kKeyDim + Rows::Column(piece))),
                 to);
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i] *= rest[kRingHeld];
      }
    }
#pragma unroll 2
    for (int j = 0; j < held; ++j) {
      const float w[2] = {rest[j] * u[0][j * args.value_dim],
                          rest[j] * u[1][j * args.value_dim]};
      AddProduct<kKeyDim>(keys + j * kKeyDim, 1.0F, w, rows);
    }
    StoreRows<kKeyDim>(state, first, args.value_dim, rows);
  }
}

// Values of a part of a head, of whole groups of squares.
int32_t PartValues(int32_t value_dim, int32_t parts) {
  const int32_t values = (value_dim + parts - 1) / parts;
  return (values + kSquaresGroup - 1) / kSquaresGroup * kSquaresGroup;
}

// Blocks of at most so many values.
RingPlan PlanOf(const GatedDeltaDecodeArgs& args, int32_t values_max) {
  constexpr int32_t kPartsMax = 8;  // of a portable cluster
  const int32_t sharing = args.heads / args.key_heads;
  RingPlan plan = {};
  plan.heads = 1;
  plan.values = args.value_dim;
  plan.parts = 1;
  plan.sharing = sharing;
  if (args.value_dim > values_max) {
    const int32_t parts =
        std::min(kPartsMax, (args.value_dim + values_max - 1) / values_max);
    plan.values = PartValues(args.value_dim, parts);
    plan.parts = (args.value_dim + plan.values - 1) / plan.values;
    return plan;
  }
  // A warp's values are of one head.
  if (args.value_dim % kWarp != 0) return plan;
  for (int32_t heads = 2; heads <= std::min(sharing, kRingHeadsMax); ++heads) {
    if (sharing % heads == 0 && heads * args.value_dim <= values_max) {
      plan.heads = heads;
    }
  }
  plan.values = plan.heads * args.value_dim;
  plan.sharing = sharing / plan.heads;
  plan.head_factor = HeadFactor(args.value_dim);
  return plan;
}

// Blocks of so few values that the card is busy, and of as many as that leaves.
RingPlan PlanFor(const GatedDeltaRingArgs& args) {
  constexpr int32_t kValuesMin = 32;
  const int64_t busy =
      int64_t{ThisCard().multiprocessors} * kBlocksOfMultiprocessor;
  const int32_t most = args.block_values > 0
                           ? std::min(args.block_values, kRingValuesMax)
                           : kRingValuesMax;
  RingPlan plan = PlanOf(args.step, most);
  const auto blocks = [&](const RingPlan& of) {
    return int64_t{args.step.rows} * (args.step.heads / of.heads) * of.parts;
  };
  for (int32_t values = most / 2;
       args.block_values == 0 && values >= kValuesMin &&
       2 * blocks(plan) <= busy;
       values /= 2) {
    plan = PlanOf(args.step, values);
  }
  plan.reads_ahead = blocks(plan) <= busy;
  return plan;
}

template <typename Input, int kWidth, int kKeyDim>
cudaError_t Launch(const GatedDeltaRingArgs& args, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(RingShared<kKeyDim>);
  const auto kernel = RingKernel<Input, kWidth, kKeyDim>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const RingPlan plan = PlanFor(args);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<uint32_t>(plan.parts), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(plan.parts, args.step.heads / plan.heads, args.step.rows);
  config.blockDim = dim3(kRingThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = plan.parts > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args, plan);
}

using Launcher = cudaError_t (*)(const GatedDeltaRingArgs& args,
                                 cudaStream_t stream);

template <typename Input, int kWidth>
Launcher OfKeyDim(int32_t key_dim) {
  switch (key_dim) {
    case 64:
      return Launch<Input, kWidth, 64>;
    case 128:
      return Launch<Input, kWidth, 128>;
    default:
      return Launch<Input, kWidth, 256>;
  }
}

template <typename Input>
Launcher OfWidth(const GatedDeltaDecodeArgs& args) {
  return args.conv_width == 4 ? OfKeyDim<Input, 4>(args.key_dim)
                              : OfKeyDim<Input, 0>(args.key_dim);
}

bool IsSound(const GatedDeltaRingArgs& args) {
  constexpr int32_t kGridMax = 65535;
  return args.step.rows >= 0 && args.step.rows <= kGridMax &&
         CanRingGatedDelta(args.step) && args.ring != nullptr &&
         reinterpret_cast<uintptr_t>(args.ring) % 16 == 0 &&
         args.ring_stride % 4 == 0 && args.step.state != nullptr &&
         reinterpret_cast<uintptr_t>(args.step.state) % 16 == 0 &&
         args.step.state_stride % 4 == 0;
}

// From this many numbers of states on: docs/kernels/decode.md.
constexpr int64_t kStreamNumbers = int64_t{1} << 27;

bool IsStreamed(const GatedDeltaRingArgs& args) {
  if (args.form != GatedDeltaRingForm::kByStates) {
    return args.form == GatedDeltaRingForm::kStream;
  }
  const int64_t state =
      int64_t{args.step.heads} * args.step.value_dim * args.step.key_dim;
  return args.block_values == 0 && args.step.rows * state >= kStreamNumbers &&
         CanStreamRing(args);
}

cudaError_t StepSingleRows(const GatedDeltaRingArgs& args,
                           cudaStream_t stream) {
  const GatedDeltaDecodeArgs& step = args.step;
  if (step.window == nullptr ||
      reinterpret_cast<uintptr_t>(step.conv_weight) % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  if (IsStreamed(args)) {
    return CanStreamRing(args) ? StreamRing(args, stream)
                               : cudaErrorInvalidValue;
  }
  const Launcher launch = step.number == StateNumber::kFloat32
                              ? OfWidth<float>(step)
                              : OfWidth<__nv_bfloat16>(step);
  return launch(args, stream);
}

}  // namespace

int64_t GatedDeltaRingNumbers(const GatedDeltaDecodeArgs& args) {
  return int64_t{args.heads} * (kRingSteps + kRingHeld * args.value_dim) +
         int64_t{args.key_heads} * kRingHeld * args.key_dim;
}

bool CanRingGatedDelta(const GatedDeltaDecodeArgs& args) {
  constexpr int64_t kColumnsMax = 1 << 20;
  const bool is_shape =
      args.key_dim == 64 || args.key_dim == 128 || args.key_dim == 256;
  return ThisCard().has_copy_engine() && is_shape && args.value_dim >= 1 &&
         args.value_dim <= kValuesMax && args.conv_width >= 2 &&
         args.conv_width <= kTapsMax && args.key_heads > 0 &&
         args.heads % args.key_heads == 0 &&
         int64_t{args.heads} * args.value_dim +
                 int64_t{2} * args.key_heads * args.key_dim <=
             kColumnsMax &&
         args.state_number == StateNumber::kFloat32;
}

cudaError_t GatedDeltaRingDecode(const GatedDeltaRingArgs& args,
                                 cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  if (args.step.rows == 0) return cudaSuccess;
  if (args.step.row_tokens_min <= 1) {
    const cudaError_t status = StepSingleRows(args, stream);
    if (status != cudaSuccess || args.step.row_tokens_max == 1) return status;
  }
  GatedDeltaRingArgs longer = args;
  longer.step.row_tokens_min = std::max(args.step.row_tokens_min, 2);
  longer.step.form = GatedDeltaForm::kByStates;
  const cudaError_t status = FoldGatedDeltaRing(longer, stream);
  if (status != cudaSuccess) return status;
  return GatedDeltaDecode(longer.step, stream);
}

cudaError_t FoldGatedDeltaRing(const GatedDeltaRingArgs& args,
                               cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  if (args.step.rows == 0) return cudaSuccess;
  const dim3 grid(args.step.heads, args.step.rows);
  switch (args.step.key_dim) {
    case 64:
      FoldKernel<64><<<grid, kRingThreads, 0, stream>>>(args);
      break;
    case 128:
      FoldKernel<128><<<grid, kRingThreads, 0, stream>>>(args);
      break;
    default:
      FoldKernel<256><<<grid, kRingThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace weir::engine
