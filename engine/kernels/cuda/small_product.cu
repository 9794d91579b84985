// SPDX-License-Identifier: Apache-2.0
//
// One block a multiprocessor. A warp takes two rows of W at a time, a lane
// pieces of 16 bytes of each, the next ones on their way while these are
// multiplied; x lies in shared memory. A row's sum is taken in an order that
// its length alone decides.
#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/small_product.h"

namespace weir::engine {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsMin = 8;
constexpr int kWarpsMax = 12;
constexpr int kRows = 2;   // of W that a warp takes at once
constexpr int kAhead = 4;  // pieces of each row on their way
constexpr int64_t kSharedBytesMax = int64_t{96} << 10;
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
      "ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
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

// Where a warp is in W: two rows, and the first of a lane's pieces in them.
template <typename Number>
struct Place {
  const Number* rows[kRows];
  int group;   // of rows
  int column;  // of the lane

  __device__ void Begin(const ProductArgs& args, int at) {
    group = at;
    column = static_cast<int>(threadIdx.x) % kWarp * kPiece<Number>;
    const bool halves = args.target == ProductTarget::kSilu;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = halves ? at + r * (args.outputs / 2) : at * kRows + r;
      // Beyond the last row the last is read, and its sum not stored.
      rows[r] = static_cast<const Number*>(args.weight) +
                static_cast<int64_t>(min(row, args.outputs - 1)) * args.inputs;
    }
  }
  // The next pieces: of these rows, or the first of the warp's next ones.
  __device__ void Next(const ProductArgs& args, int stride) {
    constexpr int kStep = kAhead * kWarp * kPiece<Number>;
    column += kStep;
    if (column - static_cast<int>(threadIdx.x) % kWarp * kPiece<Number> >=
        args.inputs) {
      Begin(args, group + stride);
    }
  }
  __device__ uint4 Load(const ProductArgs& args, int ahead, int r) const {
    const int at = column + ahead * kWarp * kPiece<Number>;
    return at < args.inputs ? LoadOnce(rows[r] + at) : uint4{0, 0, 0, 0};
  }
};

// x to shared memory as `number`; of a norm the factors x w, and the scales of
// the tokens.
template <typename Number, int kTokens, ProductSource kSource>
__device__ void XToShared(const ProductArgs& args,
                          Number* shared,
                          float (&scales)[kTokens]) {
  __shared__ float squares_of[kTokens][kWarpsMax];
  const int threads = static_cast<int>(blockDim.x);
  for (int t = 0; t < kTokens; ++t) {
    Number* to = shared + static_cast<int64_t>(t) * args.inputs;
    if constexpr (kSource == ProductSource::kNorm) {
      const float* from = static_cast<const float*>(args.x) + t * args.x_stride;
      float squares = 0;
      for (int i = static_cast<int>(threadIdx.x) * 4; i < args.inputs;
           i += threads * 4) {
        const float4 x = *reinterpret_cast<const float4*>(from + i);
        const float4 w = *reinterpret_cast<const float4*>(args.norm.weight + i);
        squares += x.x * x.x + x.y * x.y + (x.z * x.z + x.w * x.w);
        to[i] = static_cast<Number>(x.x * w.x);
        to[i + 1] = static_cast<Number>(x.y * w.y);
        to[i + 2] = static_cast<Number>(x.z * w.z);
        to[i + 3] = static_cast<Number>(x.w * w.w);
      }
      squares = SumOfWarp(squares);
      if (threadIdx.x % kWarp == 0) {
        squares_of[t][threadIdx.x / kWarp] = squares;
      }
    } else {
      const Number* from =
          static_cast<const Number*>(args.x) + t * args.x_stride;
      for (int i = static_cast<int>(threadIdx.x) * kPiece<Number>;
           i < args.inputs;
           i += threads * kPiece<Number>) {
        *reinterpret_cast<uint4*>(to + i) =
            *reinterpret_cast<const uint4*>(from + i);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    scales[t] = 1;
    if constexpr (kSource == ProductSource::kNorm) {
      float squares = 0;
      for (int warp = 0; warp < threads / kWarp; ++warp) {
        squares += squares_of[t][warp];
      }
      scales[t] = 1.0F / sqrtf(squares / static_cast<float>(args.inputs) +
                               args.norm.eps);
    }
  }
}

template <typename Number, int kTokens>
__device__ void Store(const ProductArgs& args,
                      int group,
                      const float (&scales)[kTokens],
                      float (&sums)[kRows][kTokens]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    float y[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      y[r] = SumOfWarp(sums[r][t]) * scales[t];
      sums[r][t] = 0;
    }
    if (lane != t) continue;
    const int64_t row = t * args.y_stride;
    if (args.target == ProductTarget::kSilu) {
      static_cast<Number*>(args.y)[row + group] =
          static_cast<Number>(y[0] / (1.0F + expf(-y[0])) * y[1]);
      continue;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int output = group * kRows + r;
      if (output >= args.outputs) continue;
      if (args.target == ProductTarget::kRows) {
        static_cast<Number*>(args.y)[row + output] = static_cast<Number>(y[r]);
      } else if (args.target == ProductTarget::kFloat) {
        static_cast<float*>(args.y)[row + output] = y[r];
      } else {
        static_cast<float*>(args.y)[row + output] += y[r];
      }
    }
  }
}

// Two blocks share a multiprocessor where one ends and the next begins.
template <typename Number, int kTokens, ProductSource kSource>
__global__ void __launch_bounds__(kWarpsMax* kWarp, kTokens == 1 ? 2 : 1)
    SmallProductKernel(const __grid_constant__ ProductArgs args, int groups) {
  extern __shared__ uint4 shared_bytes[];
  auto* shared = reinterpret_cast<Number*>(shared_bytes);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int stride = static_cast<int>(gridDim.x) * warps;
  LetNextLaunchBegin();
  Place<Number> place;
  // Neighbouring blocks take neighbouring rows.
  place.Begin(
      args,
      static_cast<int>(threadIdx.x) / kWarp * static_cast<int>(gridDim.x) +
          static_cast<int>(blockIdx.x));
  uint4 pieces[kAhead][kRows];
  const bool is_any = place.group < groups;
#pragma unroll
  for (int u = 0; u < kAhead; ++u) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      pieces[u][r] = is_any ? place.Load(args, u, r) : uint4{0, 0, 0, 0};
    }
  }
  AwaitLaunchBefore();
  float scales[kTokens];
  XToShared<Number, kTokens, kSource>(args, shared, scales);

  float sums[kRows][kTokens] = {};
  while (place.group < groups) {
    const int group = place.group;
    const int column = place.column;
    place.Next(args, stride);
    const bool is_more = place.group < groups;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      float w[kRows][kPiece<Number>];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        Expand<Number>(pieces[u][r], w[r]);
        if (is_more) pieces[u][r] = place.Load(args, u, r);
      }
      const int at = column + u * kWarp * kPiece<Number>;
      if (at >= args.inputs) continue;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float x[kPiece<Number>];
        Expand<Number>(*reinterpret_cast<const uint4*>(
                           shared + static_cast<int64_t>(t) * args.inputs + at),
                       x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int j = 0; j < kPiece<Number>; ++j) sums[r][t] += w[r][j] * x[j];
        }
      }
    }
    if (place.group != group) {
      Store<Number, kTokens>(args, group, scales, sums);
    }
  }
}

int Multiprocessors() {
  static const int count = [] {
    int device = 0;
    int processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return processors > 0 ? processors : 1;
  }();
  return count;
}

// As many warps a block as share the groups of rows most evenly.
int WarpsFor(int groups, int blocks) {
  int best = kWarpsMax;
  int best_groups = 0;  // of the busiest block
  for (int warps = kWarpsMax; warps >= kWarpsMin; --warps) {
    const int rounds = (groups + blocks * warps - 1) / (blocks * warps);
    if (best_groups == 0 || rounds * warps < best_groups) {
      best = warps;
      best_groups = rounds * warps;
    }
  }
  return best;
}

template <typename Number, int kTokens, ProductSource kSource>
cudaError_t Launch(const ProductArgs& args, cudaStream_t stream) {
  const auto kernel = SmallProductKernel<Number, kTokens, kSource>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kSharedBytesMax));
  if (status != cudaSuccess) return status;
  const int groups = (args.outputs + kRows - 1) / kRows;
  const int blocks = Multiprocessors();
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim =
      dim3(static_cast<unsigned>(WarpsFor(groups, blocks)) * kWarp);
  config.dynamicSmemBytes = sizeof(Number) * kTokens * args.inputs;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args, groups);
}

template <typename Number, ProductSource kSource>
cudaError_t OfTokens(const ProductArgs& args, cudaStream_t stream) {
  switch (args.tokens) {
    case 1:
      return Launch<Number, 1, kSource>(args, stream);
    case 2:
      return Launch<Number, 2, kSource>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename Number>
cudaError_t OfSource(const ProductArgs& args, cudaStream_t stream) {
  return args.source == ProductSource::kNorm
             ? OfTokens<Number, ProductSource::kNorm>(args, stream)
             : OfTokens<Number, ProductSource::kRows>(args, stream);
}

}  // namespace

bool IsSmallProduct(const ProductArgs& args) {
  const int64_t bytes = args.number == StateNumber::kFloat32 ? 4 : 2;
  if (args.source == ProductSource::kNorm &&
      (args.norm.centered || args.norm.bias != nullptr)) {
    return false;
  }
  return args.tokens >= 1 && args.tokens <= kSmallProductTokensMax &&
         args.outputs >= 1 && args.inputs * bytes % 16 == 0 &&
         args.tokens * args.inputs * bytes <= kSharedBytesMax &&
         (args.target != ProductTarget::kSilu || args.outputs % 2 == 0);
}

cudaError_t SmallProduct(const ProductArgs& args, cudaStream_t stream) {
  if (!IsSmallProduct(args)) return cudaErrorInvalidValue;
  return args.number == StateNumber::kFloat32
             ? OfSource<float>(args, stream)
             : OfSource<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
