// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/layer_rows.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffU;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename Number>
__device__ Number FromFloat(float x) {
  return static_cast<Number>(x);
}

__device__ void StoreFour(float* to, float4 x) {
  *reinterpret_cast<float4*>(to) = x;
}
__device__ void StoreFour(__nv_bfloat16* to, float4 x) {
  const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(x.x, x.y),
                                   __floats2bfloat162_rn(x.z, x.w)};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
}

// The same for every thread, and for every run: a fixed tree.
__device__ float SumOfBlock(float x) {
  __shared__ float sums[kThreads / kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kAll, x, step);
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) total += sums[warp];
  return total;
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) EmbedKernel(const uint32_t* tokens,
                                                        const Number* table,
                                                        int32_t hidden,
                                                        float* residual) {
  const int64_t row = blockIdx.x;
  const Number* from = table + int64_t{tokens[row]} * hidden;
  float* to = residual + row * hidden;
  for (int32_t i = threadIdx.x; i < hidden; i += kThreads) {
    to[i] = ToFloat(from[i]);
  }
}

// Four numbers of a row at a time, kFours of them a thread's, which it keeps.
template <typename Number, int kFours>
__global__ void __launch_bounds__(kThreads)
    NormKernel(NormArgs args, const float* x, Number* out) {
  const int64_t row = blockIdx.x;
  const float* from = x + row * args.width;
  Number* to = out + row * args.width;
  const float share = 1.0F / static_cast<float>(args.width);
  float4 kept[kFours];
  float sum = 0;
#pragma unroll
  for (int f = 0; f < kFours; ++f) {
    const int32_t i = (f * kThreads + static_cast<int32_t>(threadIdx.x)) * 4;
    kept[f] = i < args.width ? *reinterpret_cast<const float4*>(from + i)
                             : float4{0, 0, 0, 0};
    sum += (kept[f].x + kept[f].y) + (kept[f].z + kept[f].w);
  }
  const float mean = args.centered ? SumOfBlock(sum) * share : 0.0F;
  float squares = 0;
#pragma unroll
  for (int f = 0; f < kFours; ++f) {
    const int32_t i = (f * kThreads + static_cast<int32_t>(threadIdx.x)) * 4;
    if (i >= args.width) continue;
    kept[f].x -= mean;
    kept[f].y -= mean;
    kept[f].z -= mean;
    kept[f].w -= mean;
    squares += (kept[f].x * kept[f].x + kept[f].y * kept[f].y) +
               (kept[f].z * kept[f].z + kept[f].w * kept[f].w);
  }
  const float scale = 1.0F / sqrtf(SumOfBlock(squares) * share + args.eps);
#pragma unroll
  for (int f = 0; f < kFours; ++f) {
    const int32_t i = (f * kThreads + static_cast<int32_t>(threadIdx.x)) * 4;
    if (i >= args.width) continue;
    const float4 w = *reinterpret_cast<const float4*>(args.weight + i);
    const float4 b = args.bias == nullptr
                         ? float4{0, 0, 0, 0}
                         : *reinterpret_cast<const float4*>(args.bias + i);
    StoreFour(to + i,
              {kept[f].x * scale * w.x + b.x,
               kept[f].y * scale * w.y + b.y,
               kept[f].z * scale * w.z + b.z,
               kept[f].w * scale * w.w + b.w});
  }
}

// A row of any width.
template <typename Number>
__global__ void __launch_bounds__(kThreads)
    WideNormKernel(NormArgs args, const float* x, Number* out) {
  const int64_t row = blockIdx.x;
  const float* from = x + row * args.width;
  Number* to = out + row * args.width;
  const float share = 1.0F / static_cast<float>(args.width);
  float mean = 0;
  if (args.centered) {
    float sum = 0;
    for (int32_t i = threadIdx.x; i < args.width; i += kThreads) sum += from[i];
    mean = SumOfBlock(sum) * share;
  }
  float squares = 0;
  for (int32_t i = threadIdx.x; i < args.width; i += kThreads) {
    const float y = from[i] - mean;
    squares += y * y;
  }
  const float scale = 1.0F / sqrtf(SumOfBlock(squares) * share + args.eps);
  for (int32_t i = threadIdx.x; i < args.width; i += kThreads) {
    const float bias = args.bias == nullptr ? 0.0F : args.bias[i];
    to[i] = FromFloat<Number>((from[i] - mean) * scale * args.weight[i] + bias);
  }
}

template <typename Number>
void LaunchNorm(const NormArgs& args,
                const float* x,
                int64_t rows,
                Number* out,
                cudaStream_t stream) {
  constexpr int32_t kFour = 4 * kThreads;
  const auto blocks = static_cast<unsigned>(rows);
  if (args.width % 4 != 0 || args.width > 4 * kFour) {
    WideNormKernel<<<blocks, kThreads, 0, stream>>>(args, x, out);
  } else if (args.width <= kFour) {
    NormKernel<Number, 1><<<blocks, kThreads, 0, stream>>>(args, x, out);
  } else if (args.width <= 2 * kFour) {
    NormKernel<Number, 2><<<blocks, kThreads, 0, stream>>>(args, x, out);
  } else {
    NormKernel<Number, 4><<<blocks, kThreads, 0, stream>>>(args, x, out);
  }
}

template <typename Number>
__global__ void __launch_bounds__(kThreads)
    SiluMultiplyKernel(const Number* gate_up, int32_t width, Number* out) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(Number));
  const int64_t row = blockIdx.x;
  const auto i =
      static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x) * kPiece;
  if (i >= width) return;
  const Number* gate = gate_up + row * 2 * width + i;
  alignas(16) Number gates[kPiece];
  alignas(16) Number ups[kPiece];
  *reinterpret_cast<uint4*>(gates) = *reinterpret_cast<const uint4*>(gate);
  *reinterpret_cast<uint4*>(ups) =
      *reinterpret_cast<const uint4*>(gate + width);
#pragma unroll
  for (int j = 0; j < kPiece; ++j) {
    const float g = ToFloat(gates[j]);
    gates[j] = FromFloat<Number>(g / (1.0F + expf(-g)) * ToFloat(ups[j]));
  }
  *reinterpret_cast<uint4*>(out + row * width + i) =
      *reinterpret_cast<const uint4*>(gates);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) KeepKernel(KeepOutputsArgs args) {
  const int32_t slot = args.slots[blockIdx.x];
  if (slot < 0) return;
  const OutputRows& rows = args.rows_of_slots;
  const auto* from = static_cast<const Number*>(args.outputs) +
                     int64_t{args.last[blockIdx.x]} * rows.hidden;
  auto* to = static_cast<Number*>(rows.slots) + slot * rows.slot_stride;
  bool finite = true;
  for (int32_t i = threadIdx.x; i < rows.hidden; i += kThreads) {
    finite &= isfinite(ToFloat(from[i])) != 0;
    to[i] = from[i];
  }
  if (!finite) args.unfit[args.plan_rows[blockIdx.x]] = 1;
}

template <typename Number>
__global__ void __launch_bounds__(kThreads)
    GatherKernel(GatherOutputsArgs args) {
  const int32_t source = args.sources[blockIdx.x];
  const OutputRows& rows = args.rows_of_slots;
  auto* to = static_cast<Number*>(args.out) + int64_t{blockIdx.x} * rows.hidden;
  const Number* from = nullptr;
  if (source >= 0) {
    from = static_cast<const Number*>(args.outputs) +
           int64_t{source} * rows.hidden;
  } else if (source < -1) {
    from = static_cast<const Number*>(rows.slots) +
           int64_t{-2 - source} * rows.slot_stride;
  }
  for (int32_t i = threadIdx.x; i < rows.hidden; i += kThreads) {
    to[i] = from == nullptr ? FromFloat<Number>(0) : from[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    SoftCapKernel(float* logits, int64_t count, float cap) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) logits[i] = cap * tanhf(logits[i] / cap);
}

unsigned Blocks(int64_t work, int64_t each) {
  return static_cast<unsigned>((work + each - 1) / each);
}

}  // namespace

cudaError_t EmbedTokens(const uint32_t* tokens,
                        int64_t count,
                        const void* table,
                        StateNumber number,
                        int32_t hidden,
                        float* residual,
                        cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = Blocks(count, 1);
  if (number == StateNumber::kFloat32) {
    EmbedKernel<<<blocks, kThreads, 0, stream>>>(
        tokens, static_cast<const float*>(table), hidden, residual);
  } else {
    EmbedKernel<<<blocks, kThreads, 0, stream>>>(
        tokens, static_cast<const __nv_bfloat16*>(table), hidden, residual);
  }
  return cudaGetLastError();
}

cudaError_t NormRows(const NormArgs& args,
                     const float* x,
                     int64_t rows,
                     StateNumber number,
                     void* out,
                     cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (number == StateNumber::kFloat32) {
    LaunchNorm(args, x, rows, static_cast<float*>(out), stream);
  } else {
    LaunchNorm(args, x, rows, static_cast<__nv_bfloat16*>(out), stream);
  }
  return cudaGetLastError();
}

cudaError_t SiluMultiplyRows(const void* gate_up,
                             int64_t rows,
                             int32_t width,
                             StateNumber number,
                             void* out,
                             cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const int piece = number == StateNumber::kFloat32 ? 4 : 8;
  if (width % piece != 0) return cudaErrorInvalidValue;
  const dim3 blocks(static_cast<unsigned>(rows),
                    Blocks(width, int64_t{kThreads} * piece));
  if (number == StateNumber::kFloat32) {
    SiluMultiplyKernel<<<blocks, kThreads, 0, stream>>>(
        static_cast<const float*>(gate_up), width, static_cast<float*>(out));
  } else {
    SiluMultiplyKernel<<<blocks, kThreads, 0, stream>>>(
        static_cast<const __nv_bfloat16*>(gate_up),
        width,
        static_cast<__nv_bfloat16*>(out));
  }
  return cudaGetLastError();
}

cudaError_t KeepOutputs(const KeepOutputsArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const unsigned blocks = Blocks(args.rows, 1);
  if (args.rows_of_slots.number == StateNumber::kFloat32) {
    KeepKernel<float><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    KeepKernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t GatherOutputs(const GatherOutputsArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  const unsigned blocks = Blocks(args.count, 1);
  if (args.rows_of_slots.number == StateNumber::kFloat32) {
    GatherKernel<float><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    GatherKernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t SoftCapLogits(float* logits,
                          int64_t count,
                          float cap,
                          cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  SoftCapKernel<<<Blocks(count, kThreads), kThreads, 0, stream>>>(
      logits, count, cap);
  return cudaGetLastError();
}

}  // namespace weir::engine
