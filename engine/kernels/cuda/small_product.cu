// SPDX-License-Identifier: Apache-2.0
//
// One block a multiprocessor. A warp takes two rows of W at a time, which the
// copy engine brings to stages of shared memory of the warp's own; so what
// follows is on its way whatever the warp waits for, and the first stages
// before the launch before has ended. Two blocks, of this launch and the next,
// share a multiprocessor. A row's sum is taken in an order that its length
// alone decides.
#include <cuda_bf16.h>

#include <cstdint>

#include "engine/kernels/cuda/bulk_transfer.cuh"
#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/launch_order.cuh"
#include "engine/kernels/cuda/small_product.h"

namespace weir::engine {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 2;          // of W that a warp takes at once
constexpr int kStages = 3;        // of a warp
constexpr int kPartBytes = 2048;  // of a row in a stage
constexpr int kStageBytes = kRows * kPartBytes;
constexpr int kStagesBytes = kWarps * kStages * kStageBytes;
constexpr int64_t kSharedBytesMax = int64_t{220} << 10;

template <typename Number>
constexpr int kPiece = 16 / static_cast<int>(sizeof(Number));

#if __CUDA_ARCH__ >= 900

constexpr unsigned kAll = 0xffffffffU;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Number>
__device__ void Expand(const uint4& piece, float (&out)[kPiece<Number>]) {
  alignas(16) Number numbers[kPiece<Number>];
  *reinterpret_cast<uint4*>(numbers) = piece;
#pragma unroll
  for (int i = 0; i < kPiece<Number>; ++i) out[i] = ToFloat(numbers[i]);
}

__device__ float SumOfWarp(float x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kAll, x, step);
  }
  return x;
}

// A warp's way over its rows of W: parts of two rows, one after the other.
struct Parts {
  int group;   // of rows
  int column;  // of the part's first number

  template <typename Number>
  __device__ void Next(const ProductArgs& args, int stride) {
    column += kPartBytes / static_cast<int>(sizeof(Number));
    if (column < args.inputs) return;
    column = 0;
    group += stride;
  }
};

// One lane: asks for a part of two rows.
template <typename Number>
__device__ void StartStage(const ProductArgs& args,
                           const Parts& at,
                           unsigned char* stage,
                           uint64_t* barrier) {
  constexpr int kColumns = kPartBytes / static_cast<int>(sizeof(Number));
  const auto bytes =
      static_cast<uint32_t>(min(kColumns, args.inputs - at.column) *
                            static_cast<int>(sizeof(Number)));
  const bool halves = args.target == ProductTarget::kSilu;
  ExpectLoad(kRows * bytes, barrier);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row =
        halves ? at.group + r * (args.outputs / 2) : at.group * kRows + r;
    // Beyond the last row the last is read, and its sum not stored.
    const Number* from =
        static_cast<const Number*>(args.weight) +
        static_cast<int64_t>(min(row, args.outputs - 1)) * args.inputs +
        at.column;
    StartPart(stage + r * kPartBytes, from, bytes, barrier);
  }
}

// x to shared memory as `number`; of a norm the factors x w, and the scales of
// the tokens.
template <typename Number, int kTokens, ProductSource kSource>
__device__ void XToShared(const ProductArgs& args,
                          Number* shared,
                          float (&scales)[kTokens]) {
  __shared__ float squares_of[kTokens][kWarps];
  for (int t = 0; t < kTokens; ++t) {
    Number* to = shared + static_cast<int64_t>(t) * args.inputs;
    if constexpr (kSource == ProductSource::kNorm) {
      const float* from = static_cast<const float*>(args.x) + t * args.x_stride;
      float squares = 0;
      for (int i = static_cast<int>(threadIdx.x) * 4; i < args.inputs;
           i += kThreads * 4) {
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
           i += kThreads * kPiece<Number>) {
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
      for (int warp = 0; warp < kWarps; ++warp) {
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

// Adds a stage's products to the sums.
template <typename Number, int kTokens>
__device__ void Multiply(const ProductArgs& args,
                         const unsigned char* stage,
                         int column,
                         const Number* shared,
                         float (&sums)[kRows][kTokens]) {
  constexpr int kStep = kWarp * kPiece<Number>;
  constexpr int kSteps = kPartBytes / static_cast<int>(sizeof(Number)) / kStep;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto* rows = reinterpret_cast<const uint4*>(stage);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int at = column + step * kStep + lane * kPiece<Number>;
    if (at >= args.inputs) continue;
    float w[kRows][kPiece<Number>];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      Expand<Number>(rows[r * (kPartBytes / 16) + step * kWarp + lane], w[r]);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float x[kPiece<Number>];
      Expand<Number>(*reinterpret_cast<const uint4*>(
                         shared + static_cast<int64_t>(t) * args.inputs + at),
                     x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float even = 0;
        float odd = 0;
#pragma unroll
        for (int j = 0; j < kPiece<Number>; j += 2) {
          even += w[r][j] * x[j];
          odd += w[r][j + 1] * x[j + 1];
        }
        sums[r][t] += even + odd;
      }
    }
  }
}

#endif

template <typename Number, int kTokens, ProductSource kSource>
__global__ void __launch_bounds__(kThreads, 2)
    SmallProductKernel(const __grid_constant__ ProductArgs args, int groups) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  __shared__ uint64_t barriers[kWarps][kStages];
  auto* x = reinterpret_cast<Number*>(shared_bytes + kStagesBytes);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const bool is_first_lane = threadIdx.x % kWarp == 0;
  unsigned char* stages = shared_bytes + warp * kStages * kStageBytes;
  const int stride = static_cast<int>(gridDim.x) * kWarps;
  // Neighbouring blocks take neighbouring rows.
  Parts at = {warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
              0};
  Parts asked = at;
  LetNextLaunchBegin();
  if (is_first_lane) {
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(&barriers[warp][stage]);
      if (asked.group >= groups) continue;
      StartStage<Number>(
          args, asked, stages + stage * kStageBytes, &barriers[warp][stage]);
      asked.Next<Number>(args, stride);
    }
  }
  AwaitLaunchBefore();
  float scales[kTokens];
  XToShared<Number, kTokens, kSource>(args, x, scales);

  float sums[kRows][kTokens] = {};
  int stage = 0;
  uint32_t phase = 0;
  while (at.group < groups) {
    WaitLoad(&barriers[warp][stage], phase);
    const Parts here = at;
    Multiply<Number, kTokens>(
        args, stages + stage * kStageBytes, here.column, x, sums);
    at.Next<Number>(args, stride);
    __syncwarp();
    if (is_first_lane && asked.group < groups) {
      StartStage<Number>(
          args, asked, stages + stage * kStageBytes, &barriers[warp][stage]);
      asked.Next<Number>(args, stride);
    }
    if (at.group != here.group) {
      Store<Number, kTokens>(args, here.group, scales, sums);
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
    phase ^= stage == 0 ? 1U : 0U;
  }
#endif
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
  cudaLaunchAttribute attribute = BeginsEarly();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(ThisCard().multiprocessors));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes =
      kStagesBytes + sizeof(Number) * kTokens * args.inputs;
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
  return ThisCard().major >= 9 && args.tokens >= 1 &&
         args.tokens <= kSmallProductTokensMax && args.outputs >= 1 &&
         args.inputs * bytes % 16 == 0 &&
         kStagesBytes + args.tokens * args.inputs * bytes <= kSharedBytesMax &&
         (args.target != ProductTarget::kSilu || args.outputs % 2 == 0);
}

cudaError_t SmallProduct(const ProductArgs& args, cudaStream_t stream) {
  if (!IsSmallProduct(args)) return cudaErrorInvalidValue;
  return args.number == StateNumber::kFloat32
             ? OfSource<float>(args, stream)
             : OfSource<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
