// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cuda/device_numbers.cuh"
#include "engine/kernels/cuda/summed_number.cuh"
#include "engine/kernels/cuda/wkv.h"

namespace weir::engine {
namespace {

// Few, so that one row's channels are on many multiprocessors.
constexpr int kThreads = 64;
constexpr int64_t kGridMax = 65535;
// Beyond any key, so that it forgets all; infinity would leave a NaN.
constexpr float kRateMax = 1e30F;
// How far above the exponent a key takes its place.
constexpr float kAbove = 8.0F;

struct WkvState {
  SummedNumber numerator;
  SummedNumber denominator;
  SummedNumber exponent;
};

struct WkvToken {
  float k;
  float v;
  float r;
};

// What was and what comes share by how far the first's exponent lies above the
// second's: the first is 1 from `least` on. A NaN is on neither side, and so
// reaches the past's share.
struct WkvShares {
  float past;
  float now;

  __device__ WkvShares(float above, float least) {
    const bool is_above = above > least;
    const float other = expf(is_above ? -above : above);
    past = is_above ? 1.0F : other;
    now = is_above ? other : 1.0F;
  }
};

// sum share + x. The product is rounded by itself: what is left of the sum of
// two is taken from the same two.
__device__ SummedNumber Added(SummedNumber sum, float share, float x) {
  return TwoSum(__fmul_rn(sum.high, share), fmaf(sum.low, share, x));
}

__device__ float Read(const WkvState& s, const WkvToken& x, float bonus) {
  const WkvShares share(s.exponent.high - x.k - bonus + s.exponent.low, 0.0F);
  return fmaf(share.past, s.numerator.high, share.now * x.v) /
         fmaf(share.past, s.denominator.high, share.now);
}

__device__ void Write(WkvState& s, const WkvToken& x, float rate) {
  const SummedNumber exponent = TwoSum(s.exponent.high, s.exponent.low - rate);
  const float above = exponent.high - x.k + exponent.low;
  const WkvShares share(above, -kAbove);
  s.numerator = Added(s.numerator, share.past, share.now * x.v);
  s.denominator = Added(s.denominator, share.past, share.now);
  s.exponent = above > -kAbove ? exponent : SummedNumber{x.k, 0.0F};
}

__device__ WkvState Load(const WkvRowsArgs& args, int32_t row, int32_t c) {
  if (args.consumed[row] == 0) return {{0, 0}, {0, 0}, {kWkvEmpty, 0}};
  const WkvArgs& of = args.wkv;
  const int64_t slot = of.slots[row];
  const int64_t channels = of.channels;
  const float* sums = of.sums + slot * of.sums_stride + c;
  return {{sums[0], sums[channels]},
          {sums[2 * channels], sums[3 * channels]},
          {of.exponent[slot * of.exponent_stride + c], sums[4 * channels]}};
}

__device__ void Store(const WkvState& s,
                      const WkvArgs& of,
                      int64_t slot,
                      int32_t c) {
  const int64_t channels = of.channels;
  float* sums = of.sums + slot * of.sums_stride + c;
  sums[0] = s.numerator.high;
  sums[channels] = s.numerator.low;
  sums[2 * channels] = s.denominator.high;
  sums[3 * channels] = s.denominator.low;
  sums[4 * channels] = s.exponent.low;
  of.exponent[slot * of.exponent_stride + c] = s.exponent.high;
}

__device__ WkvToken TokenAt(const WkvRowsArgs& args, int64_t t, int32_t c) {
  return {args.wkv.k.data[t * args.wkv.k.stride + c],
          args.wkv.v.data[t * args.wkv.v.stride + c],
          args.r.data[t * args.r.stride + c]};
}

// A thread has one channel of one row.
template <typename Number>
__global__ void __launch_bounds__(kThreads)
    WkvKernel(const __grid_constant__ WkvRowsArgs args) {
  const WkvArgs& of = args.wkv;
  const auto row = static_cast<int32_t>(blockIdx.y);
  const int32_t c = static_cast<int32_t>(blockIdx.x) * kThreads +
                    static_cast<int>(threadIdx.x);
  const int64_t slot = of.slots[row];
  const int64_t begin = of.row_starts[row];
  const int64_t end = of.row_starts[row + 1];
  if (c >= of.channels || slot < 0 || begin == end) return;
  const float rate = of.rate[c] > kRateMax ? kRateMax : of.rate[c];
  const float bonus = of.bonus[c];
  WkvState s = Load(args, row, c);
  WkvToken next = TokenAt(args, begin, c);
  for (int64_t t = begin; t < end; ++t) {
    const WkvToken x = next;
    // On its way while this token is read and written.
    if (t + 1 < end) next = TokenAt(args, t + 1, c);
    static_cast<Number*>(args.out)[t * of.channels + c] =
        FromFloat<Number>(Sigmoid(x.r) * Read(s, x, bonus));
    Write(s, x, rate);
  }
  Store(s, of, slot, c);
}

}  // namespace

cudaError_t WkvRows(const WkvRowsArgs& args, cudaStream_t stream) {
  const WkvArgs& of = args.wkv;
  if (of.rows > kGridMax || of.channels < 1) return cudaErrorInvalidValue;
  if (of.rows == 0) return cudaSuccess;
  const dim3 grid(
      static_cast<unsigned>((of.channels + kThreads - 1) / kThreads),
      static_cast<unsigned>(of.rows));
  if (args.number == StateNumber::kFloat32) {
    WkvKernel<float><<<grid, kThreads, 0, stream>>>(args);
  } else {
    WkvKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace weir::engine
