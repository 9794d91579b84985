// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include "bench/gpu/memory_rate.h"

namespace weir::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 16;  // pieces of 16 bytes that a thread has in flight

// A block has one piece: blockIdx is (piece of the slot, row).
__global__ void __launch_bounds__(kThreads)
    CopyKernel(const __grid_constant__ CopyArgs args) {
  const int64_t count = args.piece_bytes / 16;
  float4* piece = reinterpret_cast<float4*>(
      reinterpret_cast<char*>(args.base) +
      args.slots[blockIdx.y] * args.slot_bytes + blockIdx.x * args.piece_bytes);
  for (int64_t at = threadIdx.x; at < count; at += kThreads * kEach) {
    float4 x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (at + i * kThreads < count) x[i] = __ldcs(piece + at + i * kThreads);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (at + i * kThreads >= count) continue;
      x[i].x *= 0.999F;
      x[i].y *= 0.999F;
      x[i].z *= 0.999F;
      x[i].w *= 0.999F;
      __stcs(piece + at + i * kThreads, x[i]);
    }
  }
}

// The sum of two uniform numbers, of deviation 0.4.
__device__ float RandomAt(int64_t index) {
  uint64_t x = static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15ULL;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  x ^= x >> 32;
  const float a = static_cast<float>(x & 0xffffU) / 65536.0F;
  const float b = static_cast<float>(x >> 16 & 0xffffU) / 65536.0F;
  return a + b - 1.0F;
}

template <typename Number>
__global__ void FillKernel(Number* x, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += step) {
    x[i] = static_cast<Number>(RandomAt(i));
  }
}

}  // namespace

cudaError_t CopyInPlace(const CopyArgs& args, cudaStream_t stream) {
  CopyKernel<<<dim3(args.pieces_of_slot, args.rows), kThreads, 0, stream>>>(
      args);
  return cudaGetLastError();
}

cudaError_t FillRandom(float* x, int64_t count, cudaStream_t stream) {
  FillKernel<<<4096, 256, 0, stream>>>(x, count);
  return cudaGetLastError();
}

cudaError_t FillRandomBfloat16(void* x, int64_t count, cudaStream_t stream) {
  FillKernel<<<4096, 256, 0, stream>>>(static_cast<__nv_bfloat16*>(x), count);
  return cudaGetLastError();
}

}  // namespace weir::gpu
