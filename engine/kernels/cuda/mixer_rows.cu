// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/mixer_rows.h"

namespace weir::engine {
namespace {

constexpr int kThreads = 256;
constexpr int kConvWidthMax = 8;
constexpr int64_t kGridMax = 65535;
// What a position's first float counts.
constexpr double kPositionStep = 16777216;

unsigned Blocks(int64_t work, int64_t each) {
  return static_cast<unsigned>((work + each - 1) / each);
}

// A block has 256 channels of one token.
__global__ void __launch_bounds__(kThreads)
    MixKernel(const __grid_constant__ MixRowsArgs args) {
  const int64_t t = blockIdx.x;
  const int32_t c = static_cast<int32_t>(blockIdx.y) * kThreads +
                    static_cast<int>(threadIdx.x);
  if (c >= args.channels) return;
  float* out = args.out + t * args.channels + c;
  const int32_t row = RowOf(args.of, t);
  if (row < 0) {
    *out = 0;
    return;
  }
  const float* x = args.x.data + t * args.x.stride + c;
  float y = *x;
  if (args.conv_width > 0) {
    const int64_t since = t - args.of.row_starts[row];
    const bool fresh = args.of.consumed[row] == 0;
    const float* window =
        args.window + args.of.slots[row] * args.window_stride + c;
    const int history = args.conv_width - 1;
    y = args.bias == nullptr ? 0.0F : args.bias[c];
    for (int tap = 0; tap <= history; ++tap) {
      const int back = history - tap;
      float input = 0;
      if (back <= since) {
        input = x[-back * args.x.stride];
      } else if (!fresh) {
        input = window[(tap + since) * args.channels];
      }
      y = fmaf(args.weight[int64_t{tap} * args.channels + c], input, y);
    }
  }
  if (c >= args.silu_begin && c < args.silu_end) y = Silu(y);
  if (c < args.mapped) y = Activated(args.map, y);
  if (c < args.scaled) y *= args.scale;
  *out = y;
}

// A block has 256 channels of one row; after all of MixKernel has read.
__global__ void __launch_bounds__(kThreads)
    WindowKernel(const __grid_constant__ MixRowsArgs args) {
  const int32_t row = static_cast<int32_t>(blockIdx.x);
  const int32_t c = static_cast<int32_t>(blockIdx.y) * kThreads +
                    static_cast<int>(threadIdx.x);
  const int32_t slot = args.of.slots[row];
  const int64_t first = args.of.row_starts[row];
  const int64_t count = args.of.row_starts[row + 1] - first;
  if (c >= args.channels || slot < 0 || count == 0) return;
  const bool fresh = args.of.consumed[row] == 0;
  const int history = args.conv_width - 1;
  float* window = args.window + slot * args.window_stride + c;
  float kept[kConvWidthMax - 1];
  for (int i = 0; i < history; ++i) {
    const int64_t token = count - history + i;
    if (token >= 0) {
      kept[i] = args.x.data[(first + token) * args.x.stride + c];
    } else {
      kept[i] = fresh ? 0.0F : window[(history + token) * args.channels];
    }
  }
  for (int i = 0; i < history; ++i)
    window[int64_t{i} * args.channels] = kept[i];
}

// A warp has one head of one token.
__global__ void __launch_bounds__(kThreads)
    HeadNormKernel(HeadNormArgs args, int64_t items) {
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= items) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* x =
      args.x + item / args.heads * args.stride + item % args.heads * args.dim;
  float sum = 0;
  for (int i = lane; i < args.dim; i += 32) {
    sum += args.norm == HeadNorm::kL2 ? x[i] * x[i] : fabsf(x[i]);
  }
  sum = SumOfWarp(sum);
  const float factor = args.norm == HeadNorm::kL2
                           ? args.scale / sqrtf(sum + args.eps)
                           : args.scale / (sum < args.eps ? args.eps : sum);
  for (int i = lane; i < args.dim; i += 32) x[i] *= factor;
}

// A thread has one angle of one token, for all heads of q and k.
__global__ void __launch_bounds__(kThreads)
    TurnKernel(const __grid_constant__ TurnRowsArgs args) {
  const int32_t half = args.dim / 2;
  const int64_t t = blockIdx.x;
  const int32_t row = RowOf(args.of, t);
  if (row < 0) return;
  double position = static_cast<double>(t - args.of.row_starts[row]);
  if (args.of.consumed[row] != 0) {
    const float* held =
        args.positions + args.of.slots[row] * args.position_stride;
    position += double{held[0]} * kPositionStep + double{held[1]};
  }
  for (int32_t i = threadIdx.x; i < half; i += kThreads) {
    double s = 0;
    double c = 0;
    // In fp64: at position 10^6 an angle in fp32 has three digits left.
    sincos(position * args.angles[i], &s, &c);
    const auto sine = static_cast<float>(s);
    const auto cosine = static_cast<float>(c);
    for (float* const x : {args.q, args.k}) {
      for (int32_t h = 0; h < args.heads; ++h) {
        float* low = x + t * args.stride + h * args.dim + i;
        float* high = low + half;
        const float before = *low;
        *low = before * cosine - *high * sine;
        *high = *high * cosine + before * sine;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    PositionKernel(const __grid_constant__ TurnRowsArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= args.of.rows || args.of.slots[row] < 0) return;
  const int32_t count = args.of.row_starts[row + 1] - args.of.row_starts[row];
  if (count == 0) return;
  float* held = args.positions + args.of.slots[row] * args.position_stride;
  double position = count;
  if (args.of.consumed[row] != 0) {
    position += double{held[0]} * kPositionStep + double{held[1]};
  }
  const double high = floor(position / kPositionStep);
  held[0] = static_cast<float>(high);
  held[1] = static_cast<float>(position - high * kPositionStep);
}

// A block has one write of one token; the first also the rows' starts.
__global__ void __launch_bounds__(kThreads)
    SpreadKernel(const __grid_constant__ SpreadWritesArgs args) {
  const int64_t t = blockIdx.x;
  const int32_t n = static_cast<int32_t>(blockIdx.y);
  const int64_t to = t * args.writes + n;
  const bool is_last = n == args.writes - 1;
  for (int32_t i = threadIdx.x; i < args.keys; i += kThreads) {
    args.write_q[to * args.keys + i] =
        is_last ? args.q.data[t * args.q.stride + i] : 0.0F;
    args.write_k[to * args.keys + i] =
        args.k.data[t * args.k.stride + int64_t{n} * args.keys + i];
  }
  for (int32_t i = threadIdx.x; i < args.values; i += kThreads) {
    args.write_v[to * args.values + i] =
        args.v.data[t * args.v.stride + int64_t{n} * args.values + i];
  }
  for (int32_t i = threadIdx.x; i < args.heads; i += kThreads) {
    args.write_decay[to * args.heads + i] =
        n == 0 ? args.log2_decay.data[t * args.log2_decay.stride + i] : 0.0F;
  }
  if (t != 0 || n != 0) return;
  for (int32_t row = threadIdx.x; row <= args.of.rows; row += kThreads) {
    args.write_starts[row] = args.of.row_starts[row] * args.writes;
  }
}

__global__ void __launch_bounds__(kThreads) BiasKernel(float* x,
                                                       int64_t stride,
                                                       int64_t tokens,
                                                       int32_t width,
                                                       const float* bias) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= tokens * width) return;
  x[i / width * stride + i % width] += bias[i % width];
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) RoundKernel(
    TokenRows x, int64_t tokens, int32_t width, Activation f, Number* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= tokens * width) return;
  out[i] =
      FromFloat<Number>(Activated(f, x.data[i / width * x.stride + i % width]));
}

__global__ void __launch_bounds__(kThreads)
    WidenKernel(const __nv_bfloat16* x, int64_t count, float* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) out[i] = ToFloat(x[i]);
}

// A block has one group of one token.
template <typename Number, int kBlock>
__global__ void __launch_bounds__(kBlock)
    FinishKernel(const __grid_constant__ FinishRowsArgs args) {
  const GatedNormArgs& norm = args.norm;
  const int64_t t = blockIdx.x;
  const int64_t offset = int64_t{blockIdx.y} * norm.width;
  const float* x = norm.x.data + t * norm.x.stride + offset;
  const float* z = norm.gate == GateKind::kNone
                       ? nullptr
                       : norm.z.data + t * norm.z.stride + offset;
  const float* skip = args.skip.data == nullptr
                          ? nullptr
                          : args.skip.data + t * args.skip.stride + offset;
  const float share =
      args.sums.data == nullptr
          ? 1.0F
          : 1.0F / (args.sums.data[t * args.sums.stride + blockIdx.y] +
                    args.sums_eps);
  const auto gate = [&](int32_t i) {
    return norm.gate == GateKind::kSilu ? Silu(z[i]) : Sigmoid(z[i]);
  };
  const bool before = z != nullptr && norm.order == GateOrder::kBeforeNorm;
  const auto value = [&](int32_t i) {
    float y = x[i];
    if (skip != nullptr) {
      y = fmaf(args.d[(offset + i) / args.skip_dim], skip[i], y);
    }
    if (args.has_silu) y = Silu(y);
    if (args.sums.data != nullptr) y *= share;
    return before ? y * gate(i) : y;
  };
  const float inverse_width = 1.0F / static_cast<float>(norm.width);
  float mean = 0;
  float scale = 1;
  if (args.has_norm) {
    if (norm.centered) {
      float sum = 0;
      for (int32_t i = threadIdx.x; i < norm.width; i += kBlock)
        sum += value(i);
      mean = SumOfBlock<kBlock>(sum) * inverse_width;
    }
    float squares = 0;
    for (int32_t i = threadIdx.x; i < norm.width; i += kBlock) {
      const float y = value(i) - mean;
      squares = fmaf(y, y, squares);
    }
    scale =
        1.0F / sqrtf(SumOfBlock<kBlock>(squares) * inverse_width + norm.eps);
  }
  const int64_t first = norm.shared_weight ? 0 : offset;
  Number* out =
      static_cast<Number*>(args.out) + t * norm.groups * norm.width + offset;
  for (int32_t i = threadIdx.x; i < norm.width; i += kBlock) {
    float y = (value(i) - mean) * scale;
    if (norm.weight != nullptr) y *= norm.weight[first + i];
    if (norm.bias != nullptr) y += norm.bias[first + i];
    if (z != nullptr && !before) y *= gate(i);
    out[i] = FromFloat<Number>(y);
  }
}

template <typename Number>
cudaError_t Finish(const FinishRowsArgs& args, cudaStream_t stream) {
  constexpr int32_t kNarrow = 128;
  const dim3 grid(static_cast<unsigned>(args.tokens),
                  static_cast<unsigned>(args.norm.groups));
  if (args.norm.width <= kNarrow) {
    FinishKernel<Number, 32><<<grid, 32, 0, stream>>>(args);
  } else {
    FinishKernel<Number, kThreads><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t MixRows(const MixRowsArgs& args, cudaStream_t stream) {
  if (args.conv_width < 0 || args.conv_width == 1 ||
      args.conv_width > kConvWidthMax || args.channels < 1 ||
      args.channels > kGridMax * kThreads) {
    return cudaErrorInvalidValue;
  }
  if (args.of.rows == 0 || args.of.tokens == 0) return cudaSuccess;
  const unsigned blocks = Blocks(args.channels, kThreads);
  MixKernel<<<dim3(static_cast<unsigned>(args.of.tokens), blocks),
              kThreads,
              0,
              stream>>>(args);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess || args.conv_width == 0) return status;
  WindowKernel<<<dim3(static_cast<unsigned>(args.of.rows), blocks),
                 kThreads,
                 0,
                 stream>>>(args);
  return cudaGetLastError();
}

cudaError_t NormalizeHeadRows(const HeadNormArgs& args,
                              int64_t tokens,
                              cudaStream_t stream) {
  const int64_t items = tokens * args.heads;
  if (items == 0) return cudaSuccess;
  HeadNormKernel<<<Blocks(items, kThreads / 32), kThreads, 0, stream>>>(args,
                                                                        items);
  return cudaGetLastError();
}

cudaError_t TurnRows(const TurnRowsArgs& args, cudaStream_t stream) {
  if (args.dim % 2 != 0) return cudaErrorInvalidValue;
  if (args.of.rows == 0 || args.of.tokens == 0) return cudaSuccess;
  TurnKernel<<<static_cast<unsigned>(args.of.tokens), kThreads, 0, stream>>>(
      args);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  PositionKernel<<<Blocks(args.of.rows, kThreads), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t SpreadWrites(const SpreadWritesArgs& args, cudaStream_t stream) {
  if (args.of.rows == 0 || args.of.tokens == 0) return cudaSuccess;
  SpreadKernel<<<dim3(static_cast<unsigned>(args.of.tokens),
                      static_cast<unsigned>(args.writes)),
                 kThreads,
                 0,
                 stream>>>(args);
  return cudaGetLastError();
}

cudaError_t AddBiasRows(float* x,
                        int64_t stride,
                        int64_t tokens,
                        int32_t width,
                        const float* bias,
                        cudaStream_t stream) {
  if (tokens * width == 0) return cudaSuccess;
  BiasKernel<<<Blocks(tokens * width, kThreads), kThreads, 0, stream>>>(
      x, stride, tokens, width, bias);
  return cudaGetLastError();
}

cudaError_t RoundRows(TokenRows x,
                      int64_t tokens,
                      int32_t width,
                      Activation f,
                      StateNumber number,
                      void* out,
                      cudaStream_t stream) {
  if (tokens * width == 0) return cudaSuccess;
  const unsigned blocks = Blocks(tokens * width, kThreads);
  if (number == StateNumber::kFloat32) {
    RoundKernel<<<blocks, kThreads, 0, stream>>>(
        x, tokens, width, f, static_cast<float*>(out));
  } else {
    RoundKernel<<<blocks, kThreads, 0, stream>>>(
        x, tokens, width, f, static_cast<__nv_bfloat16*>(out));
  }
  return cudaGetLastError();
}

cudaError_t WidenNumbers(const void* x,
                         int64_t count,
                         float* out,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  WidenKernel<<<Blocks(count, kThreads), kThreads, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(x), count, out);
  return cudaGetLastError();
}

cudaError_t FinishRows(const FinishRowsArgs& args, cudaStream_t stream) {
  if (args.norm.groups < 1 || args.norm.groups > kGridMax) {
    return cudaErrorInvalidValue;
  }
  if (args.tokens == 0) return cudaSuccess;
  return args.number == StateNumber::kFloat32
             ? Finish<float>(args, stream)
             : Finish<__nv_bfloat16>(args, stream);
}

}  // namespace weir::engine
