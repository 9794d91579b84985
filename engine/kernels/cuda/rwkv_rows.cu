// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/rwkv_rows.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
// e^-1/2 log2(e): the fastest decay is 2 to minus this a token.
constexpr float kRwkv7Rate = 0.875038775F;

unsigned Blocks(int64_t work, int64_t each) {
  return static_cast<unsigned>((work + each - 1) / each);
}

// A warp has one head of one token; a lane reads no channel but its own.
__global__ void __launch_bounds__(kThreads)
    Rwkv7TermKernel(Rwkv7TermArgs args, int64_t items) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t at = item * args.key_dim;
  const int64_t weights = item % args.heads * args.key_dim;
  float sum = 0;
  for (int c = lane; c < args.key_dim; c += 32) {
    const float u = args.k[at + c] * args.k_k[weights + c];
    sum = fmaf(u, u, sum);
  }
  const float scale = 1.0F / sqrtf(SumOfWarp(sum) + args.eps);
  for (int c = lane; c < args.key_dim; c += 32) {
    const float key = args.k[at + c];
    const float u = key * args.k_k[weights + c] * scale;
    const float i = Sigmoid(args.rate[at + c]);
    args.a[at + c] = -u;
    args.rate[at + c] = u * i;
    args.k[at + c] = key * fmaf(i - 1.0F, args.k_a[weights + c], 1.0F);
    args.w[at + c] = -kRwkv7Rate * Sigmoid(args.w[at + c]);
  }
}

__global__ void __launch_bounds__(kThreads) Rwkv7ValueKernel(const float* first,
                                                             const float* mix,
                                                             int64_t count,
                                                             float* v) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) v[i] = fmaf(first[i] - v[i], Sigmoid(mix[i]), v[i]);
}

// A warp has one head of one token.
template <typename Number>
__global__ void __launch_bounds__(kThreads)
    Rwkv7BonusKernel(Rwkv7BonusArgs args, int64_t items, Number* out) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* r_k = args.r_k + item % args.heads * args.key_dim;
  const float* r = args.r + item * args.key_dim;
  const float* k = args.k + item * args.key_dim;
  float sum = 0;
  for (int c = lane; c < args.key_dim; c += 32) {
    sum = fmaf(r[c] * k[c], r_k[c], sum);
  }
  const float bonus = SumOfWarp(sum);
  const int64_t at = item * args.value_dim;
  for (int c = lane; c < args.value_dim; c += 32) {
    const float y = fmaf(bonus, args.v[at + c], args.y[at + c]);
    out[at + c] = FromFloat<Number>(y * args.g[at + c]);
  }
}

__global__ void __launch_bounds__(kThreads)
    Rwkv6DecayKernel(float* w, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) w[i] = -kLog2E * expf(w[i]);
}

__global__ void __launch_bounds__(kThreads) AddGatedKernel(const float* gate,
                                                           const float* up,
                                                           int64_t count,
                                                           float* residual) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) residual[i] = fmaf(Sigmoid(gate[i]), up[i], residual[i]);
}

}  // namespace

cudaError_t Rwkv7TermRows(const Rwkv7TermArgs& args,
                          int64_t tokens,
                          cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  Rwkv7TermKernel<<<Blocks(items, kThreads / 32), kThreads, 0, stream>>>(args,
                                                                         items);
  return cudaGetLastError();
}

cudaError_t Rwkv7ValueRows(const float* first,
                           const float* mix,
                           int32_t width,
                           float* v,
                           int64_t tokens,
                           cudaStream_t stream) {
  const int64_t count = tokens * width;
  if (count == 0) return cudaSuccess;
  Rwkv7ValueKernel<<<Blocks(count, kThreads), kThreads, 0, stream>>>(
      first, mix, count, v);
  return cudaGetLastError();
}

cudaError_t Rwkv7BonusRows(const Rwkv7BonusArgs& args,
                           StateNumber number,
                           void* out,
                           int64_t tokens,
                           cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  const unsigned blocks = Blocks(items, kThreads / 32);
  if (number == StateNumber::kFloat32) {
    Rwkv7BonusKernel<<<blocks, kThreads, 0, stream>>>(
        args, items, static_cast<float*>(out));
  } else {
    Rwkv7BonusKernel<<<blocks, kThreads, 0, stream>>>(
        args, items, static_cast<__nv_bfloat16*>(out));
  }
  return cudaGetLastError();
}

cudaError_t Rwkv6DecayRows(float* w, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  Rwkv6DecayKernel<<<Blocks(count, kThreads), kThreads, 0, stream>>>(w, count);
  return cudaGetLastError();
}

cudaError_t AddGatedNumbers(const float* gate,
                            const float* up,
                            int64_t count,
                            float* residual,
                            cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  AddGatedKernel<<<Blocks(count, kThreads), kThreads, 0, stream>>>(
      gate, up, count, residual);
  return cudaGetLastError();
}

}  // namespace weir::engine
