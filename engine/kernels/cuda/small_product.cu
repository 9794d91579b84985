// SPDX-License-Identifier: Apache-2.0
//
// A warp takes kRows rows of W at a time, a lane 16 bytes of each at a time;
// x lies in shared memory. A row's sum is taken in an order that its length
// alone decides.
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "engine/kernels/cuda/small_product.h"

namespace weir::engine {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 2;          // of W that a warp takes at once
constexpr int kUnrolled = 4;      // pieces of a row on their way at once
constexpr int kBlocksMax = 1056;  // 8 for each of 132 multiprocessors
constexpr int64_t kSharedBytesMax = int64_t{160} << 10;
constexpr unsigned kAll = 0xffffffffU;

template <typename Number>
constexpr int kPiece = 16 / static_cast<int>(sizeof(Number));

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

// What is before may still run; nothing it wrote may be read before this.
__device__ void AwaitLaunchBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ void LetNextLaunchBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename Number>
__device__ void Expand(const uint4& piece, float (&out)[kPiece<Number>]) {
  alignas(16) Number numbers[kPiece<Number>];
  *reinterpret_cast<uint4*>(numbers) = piece;
#pragma unroll
  for (int i = 0; i < kPiece<Number>; ++i) out[i] = ToFloat(numbers[i]);
}

// Weights are read once: they need not stay in the caches.
__device__ uint4 LoadOnce(const void* from) {
  uint4 x;
  asm volatile(
      "ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(from));
  return x;
}

__device__ float SumOfWarp(float x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kAll, x, step);
  }
  return x;
}

__device__ float SumOfBlock(float x) {
  __shared__ float sums[kWarps];
  x = SumOfWarp(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += sums[warp];
  return total;
}

template <typename Number>
__device__ void NormToShared(const ProductArgs& args, int64_t t, Number* to) {
  const float* from = static_cast<const float*>(args.x) + t * args.x_stride;
  const float share = 1.0F / static_cast<float>(args.inputs);
  float mean = 0;
  if (args.norm.centered) {
    float sum = 0;
    for (int i = threadIdx.x; i < args.inputs; i += kThreads) sum += from[i];
    mean = SumOfBlock(sum) * share;
  }
  float squares = 0;
  for (int i = threadIdx.x; i < args.inputs; i += kThreads) {
    const float y = from[i] - mean;
    squares += y * y;
  }
  const float scale = 1.0F / sqrtf(SumOfBlock(squares) * share + args.norm.eps);
  for (int i = threadIdx.x; i < args.inputs; i += kThreads) {
    const float bias = args.norm.bias == nullptr ? 0.0F : args.norm.bias[i];
    to[i] = static_cast<Number>((from[i] - mean) * scale * args.norm.weight[i] +
                                bias);
  }
}

template <typename Number>
__device__ void SiluToShared(const ProductArgs& args, int64_t t, Number* to) {
  const Number* gate = static_cast<const Number*>(args.x) + t * args.x_stride;
  for (int i = threadIdx.x * kPiece<Number>; i < args.inputs;
       i += kThreads * kPiece<Number>) {
    float gates[kPiece<Number>];
    float ups[kPiece<Number>];
    Expand<Number>(*reinterpret_cast<const uint4*>(gate + i), gates);
    Expand<Number>(*reinterpret_cast<const uint4*>(gate + args.inputs + i),
                   ups);
#pragma unroll
    for (int j = 0; j < kPiece<Number>; ++j) {
      const float g = gates[j];
      to[i + j] = static_cast<Number>(g / (1.0F + expf(-g)) * ups[j]);
    }
  }
}

template <typename Number, int kTokens, ProductSource kSource>
__device__ void XToShared(const ProductArgs& args, Number* shared) {
#pragma unroll 1
  for (int t = 0; t < kTokens; ++t) {
    Number* to = shared + static_cast<int64_t>(t) * args.inputs;
    if constexpr (kSource == ProductSource::kNorm) {
      NormToShared(args, t, to);
    } else if constexpr (kSource == ProductSource::kSilu) {
      SiluToShared(args, t, to);
    } else {
      const Number* from =
          static_cast<const Number*>(args.x) + t * args.x_stride;
      for (int i = threadIdx.x * kPiece<Number>; i < args.inputs;
           i += kThreads * kPiece<Number>) {
        *reinterpret_cast<uint4*>(to + i) =
            *reinterpret_cast<const uint4*>(from + i);
      }
    }
  }
  __syncthreads();
}

// Brings the rows that this warp begins with nearer.
template <typename Number>
__device__ void AskFor(const ProductArgs& args, int first) {
  constexpr int kLineBytes = 128;
  const int rows = min(kRows, args.outputs - first);
  if (rows <= 0) return;
  const int64_t bytes =
      int64_t{rows} * args.inputs * static_cast<int64_t>(sizeof(Number));
  const char* from = reinterpret_cast<const char*>(
      static_cast<const Number*>(args.weight) + int64_t{first} * args.inputs);
  const int lane = threadIdx.x % kWarp;
  for (int64_t at = int64_t{lane} * kLineBytes; at < bytes;
       at += int64_t{kWarp} * kLineBytes) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
  }
}

template <typename Number, int kTokens>
__device__ void Multiply(const ProductArgs& args,
                         const Number* shared,
                         int first,
                         float (&sums)[kRows][kTokens]) {
  constexpr int kStep = kWarp * kPiece<Number>;
  const int lane = threadIdx.x % kWarp;
  const Number* row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // A row beyond the last is read as the last, and not stored.
    row[r] = static_cast<const Number*>(args.weight) +
             int64_t{min(first + r, args.outputs - 1)} * args.inputs;
  }
  const auto one = [&](int i, const uint4(&pieces)[kRows]) {
    float w[kRows][kPiece<Number>];
#pragma unroll
    for (int r = 0; r < kRows; ++r) Expand<Number>(pieces[r], w[r]);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float x[kPiece<Number>];
      Expand<Number>(*reinterpret_cast<const uint4*>(
                         shared + static_cast<int64_t>(t) * args.inputs + i),
                     x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kPiece<Number>; ++j) sums[r][t] += w[r][j] * x[j];
      }
    }
  };
  int i = lane * kPiece<Number>;
  for (; i + (kUnrolled - 1) * kStep < args.inputs; i += kUnrolled * kStep) {
    uint4 pieces[kUnrolled][kRows];
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        pieces[u][r] = LoadOnce(row[r] + i + u * kStep);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) one(i + u * kStep, pieces[u]);
  }
  for (; i < args.inputs; i += kStep) {
    uint4 pieces[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) pieces[r] = LoadOnce(row[r] + i);
    one(i, pieces);
  }
}

template <typename Number, int kTokens, ProductSource kSource>
__global__ void __launch_bounds__(kThreads)
    SmallProductKernel(ProductArgs args) {
  extern __shared__ uint4 shared_bytes[];
  auto* shared = reinterpret_cast<Number*>(shared_bytes);
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  int first = (static_cast<int>(blockIdx.x) * kWarps + warp) * kRows;
  LetNextLaunchBegin();
  AskFor<Number>(args, first);
  AwaitLaunchBefore();
  XToShared<Number, kTokens, kSource>(args, shared);

  const int step = static_cast<int>(gridDim.x) * kWarps * kRows;
  for (; first < args.outputs; first += step) {
    float sums[kRows][kTokens] = {};
    Multiply<Number, kTokens>(args, shared, first, sums);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float sum = SumOfWarp(sums[r][t]);
        if (lane != r * kTokens + t || first + r >= args.outputs) continue;
        const int64_t at = t * args.y_stride + first + r;
        if (args.target == ProductTarget::kRows) {
          static_cast<Number*>(args.y)[at] = static_cast<Number>(sum);
        } else if (args.target == ProductTarget::kFloat) {
          static_cast<float*>(args.y)[at] = sum;
        } else {
          static_cast<float*>(args.y)[at] += sum;
        }
      }
    }
  }
}

template <typename Number, int kTokens, ProductSource kSource>
cudaError_t Launch(const ProductArgs& args, cudaStream_t stream) {
  const auto kernel = SmallProductKernel<Number, kTokens, kSource>;
  const size_t bytes = sizeof(Number) * kTokens * args.inputs;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kSharedBytesMax));
  if (status != cudaSuccess) return status;
  const int blocks = std::min(
      (args.outputs + kWarps * kRows - 1) / (kWarps * kRows), kBlocksMax);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

template <typename Number, ProductSource kSource>
cudaError_t OfTokens(const ProductArgs& args, cudaStream_t stream) {
  switch (args.tokens) {
    case 1:
      return Launch<Number, 1, kSource>(args, stream);
    case 2:
      return Launch<Number, 2, kSource>(args, stream);
    case 3:
      return Launch<Number, 3, kSource>(args, stream);
    case 4:
      return Launch<Number, 4, kSource>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename Number>
cudaError_t OfSource(const ProductArgs& args, cudaStream_t stream) {
  switch (args.source) {
    case ProductSource::kRows:
      return OfTokens<Number, ProductSource::kRows>(args, stream);
    case ProductSource::kNorm:
      return OfTokens<Number, ProductSource::kNorm>(args, stream);
    case ProductSource::kSilu:
      return OfTokens<Number, ProductSource::kSilu>(args, stream);
  }
  return cudaErrorInvalidValue;
}

int64_t NumberBytes(StateNumber number) {
  return number == StateNumber::kFloat32 ? 4 : 2;
}

}  // namespace

bool IsSmallProduct(const ProductArgs& args) {
  const int64_t bytes = NumberBytes(args.number);
  return args.tokens >= 1 && args.tokens <= kSmallProductTokensMax &&
         args.outputs >= 1 && args.inputs * bytes % 16 == 0 &&
         args.tokens * args.inputs * bytes <= kSharedBytesMax;
}

cudaError_t SmallProduct(const ProductArgs& args, cudaStream_t stream) {
  if (!IsSmallProduct(args)) return cudaErrorInvalidValue;
  return args.number == StateNumber::kFloat32
             ? OfSource<float>(args, stream)
             : OfSource<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
