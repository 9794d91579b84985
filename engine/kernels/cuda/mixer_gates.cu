// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/mixer_gates.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;

// f(t, i) for each of `width` numbers of `tokens` tokens.
template <typename F>
__global__ void __launch_bounds__(kThreads)
    NumbersKernel(int64_t tokens, int32_t width, F f) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at < tokens * width) f(at / width, static_cast<int32_t>(at % width));
}

template <typename F>
cudaError_t ForNumbersOf(int64_t tokens,
                         int32_t width,
                         cudaStream_t stream,
                         F f) {
  const int64_t numbers = tokens * width;
  if (numbers == 0) return cudaSuccess;
  const auto blocks =
      static_cast<unsigned>((numbers + kThreads - 1) / kThreads);
  NumbersKernel<<<blocks, kThreads, 0, stream>>>(tokens, width, f);
  return cudaGetLastError();
}

struct DeltaGate {
  DeltaGateArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const int64_t to = t * args.heads + i;
    if (args.log2_decay != nullptr) {
      const float dt =
          Softplus(args.a.data[t * args.a.stride + i] + args.dt_bias[i]);
      args.log2_decay[to] = -kLog2E * expf(args.a_log[i]) * dt;
    }
    if (args.beta != nullptr) {
      args.beta[to] =
          args.beta_scale * Sigmoid(args.b.data[t * args.b.stride + i]);
    }
  }
};

struct LogSigmoidGate {
  LogSigmoidArgs args;
  const float* bias;
  __device__ void operator()(int64_t t, int32_t i) const {
    float x = args.x.data[t * args.x.stride + i];
    if (bias != nullptr) x += bias[i];
    float y = -args.scale * kLog2E * Softplus(-x);
    // A NaN is not below the bound, and stays one.
    if (args.low < 0 && y < args.low * kLog2E) y = args.low * kLog2E;
    args.log2_decay[t * args.width + i] = y;
  }
};

struct KdaGate {
  KdaGateArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const int32_t head = i / args.key_dim;
    const int32_t sharing = args.heads / args.key_heads;
    const int64_t to = t * args.heads * args.key_dim + i;
    const float rate = expf(args.a_log[head]);
    const float x = args.f.data[t * args.f.stride + i] + args.dt_bias[i];
    const float decay = args.bound < 0 ? args.bound * kLog2E * Sigmoid(rate * x)
                                       : -kLog2E * rate * Softplus(x);
    const float k =
        args.k.data[t * args.k.stride + head / sharing * args.key_dim +
                    i % args.key_dim];
    args.log2_decay[to] = decay;
    args.a[to] = -(exp2f(decay) * k);
    if (i % args.key_dim == 0) {
      args.beta[t * args.heads + head] =
          args.beta_scale * Sigmoid(args.b.data[t * args.b.stride + head]);
    }
  }
};

struct Gdn2Gate {
  Gdn2GateArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const int32_t sharing = args.heads / args.key_heads;
    const int32_t head = i / args.key_dim / sharing;  // of keys
    const int32_t at = head * args.key_dim + i % args.key_dim;
    const int64_t to = t * args.heads * args.key_dim + i;
    const float x = args.f.data[t * args.f.stride + at] + args.dt_bias[at];
    const float decay = -kLog2E * expf(args.a_log[head]) * Softplus(x);
    const float erase =
        -args.erase_scale * Sigmoid(args.b.data[t * args.b.stride + at]);
    args.log2_decay[to] = decay;
    args.a[to] = exp2f(decay) * (erase * args.k.data[t * args.k.stride + at]);
  }
};

struct HgrnGate {
  HgrnGateArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const float f = args.f.data[t * args.f.stride + i];
    const float low = args.low == nullptr ? 0.0F : args.low[i];
    float keep = Sigmoid(-f);
    if (args.low != nullptr) keep *= 1.0F - low;
    // In fp64: next to one the logarithm is what was taken away, to its last
    // bit, and next to zero 1 - k would have none.
    const double natural =
        keep < 0.5F ? log1p(-double{keep})
                    : log(low + (1 - double{low}) / (1 + exp(-double{f})));
    args.k[t * args.width + i] = keep;
    args.log2_decay[t * args.width + i] =
        static_cast<float>(natural * 1.4426950408889634);
  }
};

struct TimeStepGate {
  TimeStepArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const int32_t head = i / args.head_dim;
    float dt =
        Softplus(args.dt.data[t * args.dt.stride + head] + args.dt_bias[head]);
    dt = dt < args.dt_min ? args.dt_min : dt;
    dt = dt > args.dt_max ? args.dt_max : dt;
    args.v[t * args.heads * args.head_dim + i] =
        dt * args.x.data[t * args.x.stride + i];
    if (i % args.head_dim == 0) {
      args.log2_decay[t * args.heads + head] =
          -kLog2E * expf(args.a_log[head]) * dt;
    }
  }
};

struct SlotGate {
  SlotGateArgs args;
  __device__ void operator()(int64_t t, int32_t i) const {
    const float log2_decay =
        -args.scale * kLog2E * Softplus(-args.f.data[t * args.f.stride + i]);
    const int64_t to = t * args.width + i;
    args.log2_decay[to] = log2_decay;
    // Next to one, 1 - d is held to its last bit.
    args.write[to] = -expm1f(log2_decay * 0.693147181F);
  }
};

struct SigmoidProduct {
  TokenRows gate;
  TokenRows up;
  int32_t width;
  float* out;
  __device__ void operator()(int64_t t, int32_t i) const {
    out[t * width + i] =
        Sigmoid(gate.data[t * gate.stride + i]) * up.data[t * up.stride + i];
  }
};

// A warp has one head of one token.
__global__ void __launch_bounds__(kThreads)
    SlotSoftmaxKernel(SlotSoftmaxArgs args, int64_t items) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* x = args.x + item * args.slots;
  float high = -INFINITY;
  for (int i = lane; i < args.slots; i += 32) high = fmaxf(high, x[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    high = fmaxf(high, __shfl_xor_sync(0xffffffffU, high, step));
  }
  float sum = 0;
  for (int i = lane; i < args.slots; i += 32) {
    x[i] = expf(x[i] - high);
    sum += x[i];
  }
  const float share = 1.0F / SumOfWarp(sum);
  for (int i = lane; i < args.slots; i += 32) x[i] *= share;
}

}  // namespace

cudaError_t DeltaGateRows(const DeltaGateArgs& args,
                          int64_t tokens,
                          cudaStream_t stream) {
  return ForNumbersOf(tokens, args.heads, stream, DeltaGate{args});
}

cudaError_t LogSigmoidRows(const LogSigmoidArgs& args,
                           const float* bias,
                           int64_t tokens,
                           cudaStream_t stream) {
  return ForNumbersOf(tokens, args.width, stream, LogSigmoidGate{args, bias});
}

cudaError_t KdaGateRows(const KdaGateArgs& args,
                        int64_t tokens,
                        cudaStream_t stream) {
  return ForNumbersOf(tokens, args.heads * args.key_dim, stream, KdaGate{args});
}

cudaError_t Gdn2GateRows(const Gdn2GateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream) {
  return ForNumbersOf(
      tokens, args.heads * args.key_dim, stream, Gdn2Gate{args});
}

cudaError_t HgrnGateRows(const HgrnGateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream) {
  return ForNumbersOf(tokens, args.width, stream, HgrnGate{args});
}

cudaError_t TimeStepRows(const TimeStepArgs& args,
                         int64_t tokens,
                         cudaStream_t stream) {
  return ForNumbersOf(
      tokens, args.heads * args.head_dim, stream, TimeStepGate{args});
}

cudaError_t SlotGateRows(const SlotGateArgs& args,
                         int64_t tokens,
                         cudaStream_t stream) {
  return ForNumbersOf(tokens, args.width, stream, SlotGate{args});
}

cudaError_t SlotSoftmaxRows(const SlotSoftmaxArgs& args,
                            int64_t tokens,
                            cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  constexpr int64_t kItems = kThreads / 32;
  SlotSoftmaxKernel<<<static_cast<unsigned>((items + kItems - 1) / kItems),
                      kThreads,
                      0,
                      stream>>>(args, items);
  return cudaGetLastError();
}

cudaError_t SigmoidMultiplyRows(TokenRows gate,
                                TokenRows up,
                                int32_t width,
                                float* out,
                                int64_t tokens,
                                cudaStream_t stream) {
  return ForNumbersOf(
      tokens, width, stream, SigmoidProduct{gate, up, width, out});
}

}  // namespace weir::engine
