// SPDX-License-Identifier: Apache-2.0
//
// A block for each multiprocessor or two. One of its warps feeds the others: it
// finds units of work and has the copy engine bring what their tokens and rings
// are. The others prepare a unit together, then each goes over rows of the
// state of its own, which the copy engine has been bringing since the unit
// before. So none of them waits for device memory, and none reckons where
// anything lies.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/gated_delta_ring_feed.cuh"
#include "engine/kernels/cuda/gated_delta_ring_fold.cuh"
#include "engine/kernels/cuda/gated_delta_ring_rows.cuh"
#include "engine/kernels/cuda/gated_delta_ring_stream.h"
#include "engine/kernels/cuda/gated_delta_ring_token.cuh"
#include "engine/kernels/cuda/gated_delta_ring_unit.cuh"

namespace weir::engine {
namespace {

#if __CUDA_ARCH__ >= 900

// Of the warps that are fed.
template <int kWarps>
__device__ void FedBarrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kWarps * kWarp) : "memory");
}

// A warp's rows of the states of one unit after another.
template <typename Input, int kKeyDim, int kWarps>
class WarpStream {
 public:
  using Rows = RingRows<kKeyDim>;
  using Shared = FeedShared<Input, kKeyDim, kWarps>;

  __device__ WarpStream(const FeedPlan& plan, Shared& shared)
      : shared_(shared), values_(plan.values), first_(plan.values) {}

  __device__ static int FirstRow() { return Rows::Warp() * Rows::kRows; }

  // Asks for as many rows as there is room for, of unit `n` and the next.
  __device__ void Fill(uint32_t n) {
    while (asked_ - used_ < kRingStages) {
      while (first_ >= values_) {
        if (is_end_ || unit_ > n + 1) return;
        Open();
      }
      if (Rows::Lane() == 0) {
        const uint32_t stage = asked_ % kRingStages;
        StartLoad(shared_.stages[Rows::Warp()][stage],
                  state_ + int64_t{first_} * kKeyDim,
                  min(Rows::kRows, values_ - first_) * kKeyDim *
                      static_cast<uint32_t>(sizeof(float)),
                  &shared_.loaded[Rows::Warp()][stage]);
      }
      ++asked_;
      first_ += kWarps * Rows::kRows;
    }
  }
  // The next rows, when they are there.
  __device__ const float* Wait() const {
    const uint32_t stage = used_ % kRingStages;
    WaitLoad(&shared_.loaded[Rows::Warp()][stage], used_ / kRingStages % 2);
    return shared_.stages[Rows::Warp()][stage];
  }
  // When all lanes have read them.
  __device__ void Release() {
    __syncwarp();
    ++used_;
  }

 private:
  // Goes on to the next unit, whose state is not read if it is fresh.
  __device__ void Open() {
    WaitLoad(&shared_.queued[unit_ % 2], unit_ / 2 % 2);
    const RingUnit& unit = shared_.units[unit_ % 2];
    state_ = unit.state;
    is_end_ = state_ == nullptr;
    if (!is_end_ && !unit.is_fresh()) first_ = FirstRow();
    ++unit_;
  }

  Shared& shared_;
  const int values_;
  const float* state_ = nullptr;
  int first_;
  uint32_t unit_ = 0;  // the next to be opened
  uint32_t asked_ = 0;
  uint32_t used_ = 0;
  bool is_end_ = false;
};

// What the convolution of a channel of the unit reads.
template <typename Input, typename Shared>
__device__ float ConvolvedChannel(const Shared& shared,
                                  uint32_t consumed,
                                  int channel) {
  ChannelInputs<kFeedTaps> inputs;
#pragma unroll
  for (int tap = 0; tap < kFeedTaps - 1; ++tap) {
    const auto was = static_cast<float>(shared.window[tap][channel]);
    inputs.x[tap] =
        consumed >= static_cast<uint32_t>(kFeedTaps - 1 - tap) ? was : 0.0F;
  }
  inputs.x[kFeedTaps - 1] = static_cast<float>(shared.x[channel]);
  ToFloats(*reinterpret_cast<const float4*>(shared.weight[channel]),
           inputs.weight);
  inputs.bias = 0;
  return Convolved(inputs);
}

// The entries' keys, and in the last place k, with k and q: a warp has some.
template <int kKeyDim, int kWarps, typename Shared>
__device__ void MeetEntries(int held, float2 scale, Shared& shared) {
  const OwnKeys<kKeyDim> own(shared, scale);
  for (int j = RingRows<kKeyDim>::Warp(); j < kRingSteps; j += kWarps) {
    if (j != kRingHeld && j >= held) continue;
    float key[OwnKeys<kKeyDim>::kEach];
    if (j == kRingHeld) {
#pragma unroll
      for (int i = 0; i < own.kEach; ++i) key[i] = own.k[i];
    } else {
      LoadKey(shared.keys[j], key);
    }
    const float2 met = own.Meet(key);
    if (RingRows<kKeyDim>::Lane() == 0) shared.met[j] = met;
  }
}

// A thread's value of a unit.
struct FedValue {
  bool is_there;
  int head;     // among the unit's
  int of_head;  // among the head's
  float norm_weight;
};

// Up to the products with the state: fills q, k, met and values.
template <typename Input, int kKeyDim, int kWarps>
__device__ float2 PrepareUnit(const GatedDeltaRingArgs& all,
                              const FeedPlan& plan,
                              const RingUnit& unit,
                              const FedValue& value,
                              FeedShared<Input, kKeyDim, kWarps>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int value_dim = all.step.value_dim;
  if (thread < 2 * kKeyDim) {
    const float y = ConvolvedChannel<Input>(shared, unit.consumed, thread);
    KeepChannel<kKeyDim>(thread, y, shared);
  }
  const float v =
      value.is_there
          ? ConvolvedChannel<Input>(shared, unit.consumed, 2 * kKeyDim + thread)
          : 0.0F;
  FedBarrier<kWarps>();
  const float2 scale = ScaleOfKeys<kKeyDim>(shared);
  MeetEntries<kKeyDim, kWarps>(unit.held, scale, shared);
  if (unit.group % plan.sharing == 0 && !unit.is_fold() && thread < kKeyDim) {
    Ring::Of(all, unit.slot)
        .Keys(unit.group / plan.sharing)[unit.held * kKeyDim + thread] =
        shared.k[thread] * scale.y;
  }
  FedBarrier<kWarps>();
  if (value.is_there) {
    float* const entries =
        shared.entries + value.head * kRingHeld * value_dim + value.of_head;
    const float(&rest)[kRingSteps] = shared.rest[value.head];
    RingSums sums;
#pragma unroll
    for (int j = 0; j < kRingHeld; ++j) {
      if (j >= unit.held) break;
      const float w = sums.Add(rest[j], entries[j * value_dim], shared.met[j]);
      if (unit.is_fold()) entries[j * value_dim] = w;
    }
    shared.values[thread] =
        sums.Value(v, rest[kRingHeld], shared.beta[value.head]);
  }
  FedBarrier<kWarps>();
  return scale;
}

template <typename Input, int kKeyDim, int kWarps, bool kFold>
__device__ void StepUnit(const FeedPlan& plan,
                         uint32_t n,
                         const RingUnit& unit,
                         int value_dim,
                         float2 scale,
                         WarpStream<Input, kKeyDim, kWarps>& stream,
                         FeedShared<Input, kKeyDim, kWarps>& shared) {
  using Rows = RingRows<kKeyDim>;
  RingKeys<kKeyDim> keys(shared.q, shared.k, scale);
  const float kq = shared.met[kRingHeld].y;
#pragma unroll 1
  for (int first = stream.FirstRow(); first < plan.values;
       first += kWarps * Rows::kRows) {
    if constexpr (kFold) keys.Reload(shared.q, shared.k, scale);
    float2 products = {0, 0};
    const float* stage = nullptr;
    if (!kFold || !unit.is_fresh()) {
      stage = stream.Wait();
      products = RowProducts<kKeyDim>(stage, keys);
    }
    if constexpr (!kFold) {
      stream.Release();
      stream.Fill(n);
    }
    const RowStep step = StepRow<kKeyDim>(
        first, plan.values, products, kq, shared.values, shared.u, shared.o);
    if constexpr (kFold) {
      const FoldEntries entries = {
          shared.keys[0], value_dim, shared.k, scale.y};
      const float* from[2];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int at = min(first + Rows::Row(row), plan.values - 1);
        const int head = HeadOf(plan.heads, plan.head_factor, at);
        from[row] = shared.entries + head * kRingHeld * value_dim + at -
                    head * value_dim;
      }
      FoldRows<kKeyDim>(stage,
                        unit.state,
                        first,
                        plan.values,
                        unit.is_fresh(),
                        step,
                        entries,
                        from);
      if (!unit.is_fresh()) stream.Release();
      stream.Fill(n);
    }
  }
}

template <typename Input, int kKeyDim, int kWarps>
__device__ void FinishUnit(const GatedDeltaRingArgs& all,
                           const FeedPlan& plan,
                           const RingUnit& unit,
                           const FedValue& value,
                           float z,
                           FeedShared<Input, kKeyDim, kWarps>& shared) {
  const GatedDeltaDecodeArgs& args = all.step;
  const int thread = static_cast<int>(threadIdx.x);
  const int head = unit.group * plan.heads + value.head;
  const float o = value.is_there ? shared.o[thread] : 0.0F;
  if (value.is_there && !unit.is_fold()) {
    Ring::Of(all, unit.slot)
        .Values(head)[unit.held * args.value_dim + value.of_head] =
        shared.u[thread];
  }
  const float sum = SumOverLanes<kSquaresGroup>(o * o);
  if (thread % kSquaresGroup == 0) {
    shared.o_squares[thread / kSquaresGroup] = sum;
  }
  FedBarrier<kWarps>();
  const int lane = thread % kWarp;
  const int group = value.head * args.value_dim / kSquaresGroup + lane;
  const float total = SumOverLanes<kWarp>(
      lane * kSquaresGroup < args.value_dim ? shared.o_squares[group] : 0.0F);
  if (!value.is_there) return;
  const float y = GatedOutput(args, o, total, value.norm_weight, z);
  static_cast<Input*>(args.out)[unit.token * args.out_stride +
                                head * args.value_dim + value.of_head] =
      static_cast<Input>(y);
}

template <typename Input, int kKeyDim, int kWarps>
__device__ void WorkThrough(const GatedDeltaRingArgs& all,
                            const FeedPlan& plan,
                            FeedShared<Input, kKeyDim, kWarps>& shared) {
  const GatedDeltaDecodeArgs& args = all.step;
  const int thread = static_cast<int>(threadIdx.x);
  FedValue value;
  value.is_there = thread < plan.values;
  value.head =
      value.is_there ? HeadOf(plan.heads, plan.head_factor, thread) : 0;
  value.of_head = value.is_there ? thread - value.head * args.value_dim : 0;
  value.norm_weight = args.norm_weight[value.of_head];
  WarpStream<Input, kKeyDim, kWarps> stream(plan, shared);
  for (uint32_t n = 0;; ++n) {
    stream.Fill(n);
    WaitLoad(&shared.queued[n % 2], n / 2 % 2);
    const RingUnit unit = shared.units[n % 2];
    if (unit.state == nullptr) return;
    WaitLoad(&shared.ready, n % 2);
    const float z = args.gate == GateKind::kNone || !value.is_there
                        ? 0.0F
                        : static_cast<float>(shared.z[thread]);
    const float2 scale = PrepareUnit(all, plan, unit, value, shared);
    if (unit.is_fold()) {
      StepUnit<Input, kKeyDim, kWarps, true>(
          plan, n, unit, args.value_dim, scale, stream, shared);
      // The copy engine will write where entries were written.
      FenceStores();
      __syncwarp();
    }
    if (thread % kWarp == 0) Arrive(&shared.taken);
    if (!unit.is_fold()) {
      StepUnit<Input, kKeyDim, kWarps, false>(
          plan, n, unit, args.value_dim, scale, stream, shared);
    }
    FedBarrier<kWarps>();
    FinishUnit(all, plan, unit, value, z, shared);
  }
}

#endif

// Blocks of a multiprocessor.
template <int kWarps>
constexpr int kBlocks = kWarps == 8 ? 2 : 1;

template <typename Input, int kKeyDim, int kWarps>
__global__ void __launch_bounds__((kWarps + 1) * kWarp, kBlocks<kWarps>)
    StreamKernel(const __grid_constant__ GatedDeltaRingArgs all,
                 const __grid_constant__ FeedPlan plan) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<FeedShared<Input, kKeyDim, kWarps>*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWarps * kRingStages; ++i) {
      InitBarrierOf(&shared.loaded[0][0] + i, 1);
    }
    InitBarrierOf(&shared.queued[0], 1);
    InitBarrierOf(&shared.queued[1], 1);
    InitBarrierOf(&shared.taken, kWarps);
    InitBarrier(&shared.ready);
  }
  __syncthreads();
  if (threadIdx.x / kWarp == kWarps) {
    Feeder<Input, kKeyDim, kWarps>(all, plan, shared).Run();
  } else {
    WorkThrough(all, plan, shared);
  }
#endif
}

constexpr int32_t UnitValuesMost(int32_t key_dim) {
  return key_dim == 256 ? 512 : 256;
}

FeedPlan PlanOf(const GatedDeltaDecodeArgs& args) {
  const int32_t sharing = args.heads / args.key_heads;
  FeedPlan plan = {};
  plan.heads = 1;
  for (int32_t heads = 2; heads <= std::min(sharing, kFeedHeadsMax); ++heads) {
    if (sharing % heads == 0 &&
        heads * args.value_dim <= UnitValuesMost(args.key_dim)) {
      plan.heads = heads;
    }
  }
  plan.values = plan.heads * args.value_dim;
  plan.sharing = sharing / plan.heads;
  plan.units = args.heads / plan.heads;
  plan.head_factor = HeadFactor(args.value_dim);
  return plan;
}

template <typename Input, int kKeyDim, int kWarps>
cudaError_t Launch(const GatedDeltaRingArgs& args, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(FeedShared<Input, kKeyDim, kWarps>);
  static_assert(kBlocks<kWarps> * (kBytes + 1024) <= 228 * 1024);
  const auto kernel = StreamKernel<Input, kKeyDim, kWarps>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const FeedPlan plan = PlanOf(args.step);
  const int64_t blocks =
      std::min(int64_t{args.step.rows} * plan.units,
               int64_t{ThisCard().multiprocessors} * kBlocks<kWarps>);
  kernel<<<static_cast<uint32_t>(blocks),
           (kWarps + 1) * kWarp,
           kBytes,
           stream>>>(args, plan);
  return cudaGetLastError();
}

template <typename Input>
cudaError_t OfKeyDim(const GatedDeltaRingArgs& args, cudaStream_t stream) {
  switch (args.step.key_dim) {
    case 64:
      return Launch<Input, 64, 8>(args, stream);
    case 128:
      return Launch<Input, 128, 8>(args, stream);
    default:
      return Launch<Input, 256, 16>(args, stream);
  }
}

}  // namespace

bool CanStreamRing(const GatedDeltaRingArgs& all) {
  const GatedDeltaDecodeArgs& args = all.step;
  const int64_t bytes = args.number == StateNumber::kFloat32 ? 4 : 2;
  const auto is_aligned = [&](const void* base, int64_t numbers) {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 &&
           numbers * bytes % 16 == 0;
  };
  return CanRingGatedDelta(args) && args.conv_width == kFeedTaps &&
         args.conv_bias == nullptr && args.value_dim % kWarp == 0 &&
         args.value_dim <= UnitValuesMost(args.key_dim) &&
         is_aligned(args.projected, args.projected_stride) &&
         is_aligned(args.projected, args.z_column) &&
         is_aligned(args.window, args.window_stride) &&
         is_aligned(args.conv_weight, 0);
}

cudaError_t StreamRing(const GatedDeltaRingArgs& args, cudaStream_t stream) {
  return args.step.number == StateNumber::kFloat32
             ? OfKeyDim<float>(args, stream)
             : OfKeyDim<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
