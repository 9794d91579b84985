// SPDX-License-Identifier: Apache-2.0
#include <cfloat>

#include "engine/kernels/cuda/card.h"
#include "engine/kernels/cuda/draw_order.cuh"
#include "engine/kernels/cuda/draw_row.cuh"
#include "engine/kernels/cuda/sampling.h"

namespace weir::engine {
namespace {

constexpr int kTokensOfBlock = 4096;  // fewer are not worth another block

// The 53 random bits of UniformAt, from the top.
__device__ uint64_t RandomBits(uint64_t seed, uint64_t position) {
  uint32_t counter[4] = {static_cast<uint32_t>(position),
                         static_cast<uint32_t>(position >> 32),
                         0,
                         0};
  uint32_t key[2] = {static_cast<uint32_t>(seed),
                     static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * counter[2];
    counter[0] = static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(product1);
    counter[2] = static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(product0);
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return (uint64_t{counter[1]} << 32 | counter[0]) >> 11 << 11;
}

// A block's logits, in shared memory where they have room, and which of them
// are penalised, a bit each.
struct SliceLogits {
  const float* raw;
  const uint32_t* marks;
  float penalty;
  bool has_marks;

  __device__ float Penalised(float x, int i) const {
    if (!has_marks || (marks[i / 32] >> (i % 32) & 1U) == 0) return x;
    return x > 0 ? x / penalty : x * penalty;
  }
  __device__ float operator()(int i) const { return Penalised(raw[i], i); }
};

__device__ void MarkRecent(const DrawArgs& args,
                           const DrawRow& how,
                           const DrawSlice& slice,
                           uint32_t* marks) {
  for (int i = static_cast<int>(threadIdx.x); i * 32 < slice.count();
       i += kDrawThreads) {
    marks[i] = 0;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < how.recent_count; i += kDrawThreads) {
    const int64_t at =
        int64_t{args.recent[how.recent_begin + i]} - slice.begin();
    if (at >= 0 && at < slice.count()) atomicOr(&marks[at / 32], 1U << at % 32);
  }
  __syncthreads();
}

// What the first read of a row says of it.
struct RowTop {
  bool is_finite;
  float raw_max;
  float max_logit;  // after penalties
  int32_t token;    // the most probable, the lowest id among equals
};

// `staged`: where the raw logits are put, or null.
__device__ RowTop FindTop(DrawSlice& slice,
                          const float* from,
                          const SliceLogits& logits,
                          float* staged) {
  float raw_max = -INFINITY;
  float best = -INFINITY;
  int best_at = -1;
  // Stays 0 unless a logit is not finite.
  float zero = 0;
  slice.ForEach([&](int i) {
    const float raw = __ldg(from + i);
    if (staged != nullptr) staged[i] = raw;
    zero = fmaf(raw, 0.0F, zero);
    raw_max = fmaxf(raw_max, raw);
    const float x = logits.Penalised(raw, i);
    if (x > best) {
      best = x;
      best_at = i;
    }
  });
  // The largest logit, and of the most probable token its place in the order.
  uint64_t tops[2] = {
      zero == 0 ? DrawKeyOf(raw_max) : uint64_t{1} << 32,
      best_at < 0 ? 0 : DrawOrderOf(best, slice.begin() + best_at)};
  slice.OverRow(tops, Largest());
  RowTop result;
  result.raw_max = LogitOfDrawKey(static_cast<uint32_t>(tops[0]));
  result.max_logit = LogitOfDrawKey(static_cast<uint32_t>(tops[1] >> 32));
  result.token = static_cast<int32_t>(TokenOfDrawOrder(tops[1]));
  result.is_finite = tops[0] >> 32 == 0 && fabsf(result.max_logit) <= FLT_MAX;
  return result;
}

// The token of a row whose weights' sum is `total`, and of those that min_p
// leaves `kept`; where the order is that of the logits. Calls found(i) in one
// thread of the row.
template <typename Found>
__device__ bool DrawByOrder(DrawShared& shared,
                            DrawSlice& slice,
                            const DrawScale& scale,
                            const SliceLogits& logits,
                            const DrawRow& how,
                            const Mass& coarse,
                            uint64_t total,
                            uint64_t kept,
                            uint64_t random,
                            Found found) {
  int turn = 0;
  const auto find = [&](DrawUnit unit, uint64_t target) {
    return FindPlace(
        shared, slice, scale, logits, coarse, {unit, target, turn++});
  };
  // Each filter leaves the first of the order, so that what all leave is what
  // the strictest does. A k-th token whose weight is 0 is no limit.
  if (how.top_k > 0) {
    const DrawPlace last =
        find(DrawUnit::kTokens, static_cast<uint64_t>(how.top_k) - 1);
    if (last.is_found) total = min(total, last.weight_upto);
  }
  if (how.top_p < 1) {
    const double reach = ceil(double{how.top_p} * static_cast<double>(total));
    const uint64_t needed =
        max(uint64_t{1}, min(total, static_cast<uint64_t>(max(0.0, reach))));
    const DrawPlace last = find(DrawUnit::kWeight, needed - 1);
    if (last.is_found) total = min(total, last.weight_upto);
  }
  total = min(total, kept);
  if (total == 0) return false;
  const DrawPlace place = find(DrawUnit::kWeight, __umul64hi(random, total));
  if (!place.is_found) return false;
  if (place.has_token) {
    const int at = static_cast<int>(place.token) - slice.begin();
    if (at >= 0 && at < slice.count() && threadIdx.x == 0) found(at);
    return true;
  }
  slice.FindById(
      [&](int i) { return uint64_t{DrawKeyOf(logits(i)) == place.key}; },
      place.rank,
      found);
  return true;
}

template <bool kStaged>
__global__ void __launch_bounds__(kDrawThreads)
    DrawKernel(const __grid_constant__ DrawArgs args) {
  __shared__ DrawShared shared;
  extern __shared__ float dynamic[];
  const int64_t row = blockIdx.x / RowBlocks::Count();
  const DrawRow how = args.parameters[row];
  if (how.is_active == 0) return;
  DrawSlice slice(shared, args.vocabulary);
  const float* from = args.logits + row * args.stride + slice.begin();
  const int share = DrawShare(args.vocabulary, RowBlocks::Count());
  auto* marks = reinterpret_cast<uint32_t*>(dynamic);
  float* staged = kStaged ? dynamic + share / 32 : nullptr;
  const SliceLogits logits = {
      kStaged ? staged : from,
      marks,
      how.repetition_penalty,
      how.repetition_penalty != 1 && how.recent_count > 0};
  if (logits.has_marks) MarkRecent(args, how, slice, marks);

  const RowTop top = FindTop(slice, from, logits, staged);
  if (!top.is_finite) {
    if (RowBlocks::Rank() == 0 && threadIdx.x == 0) args.finite[row] = 0;
    // None may leave while another reads its shared memory.
    RowBlocks::Sync();
    return;
  }

  const bool is_greedy = how.temperature < FLT_MIN;
  const bool is_ordered =
      !is_greedy &&
      ((how.top_k > 0 && how.top_k < args.vocabulary) || how.top_p < 1);
  const float temperature = is_greedy ? 1.0F : how.temperature;
  const DrawScale scale = {top.max_logit, temperature, 1.0F / temperature};
  // Whether the model's own weights are those that are drawn by.
  const bool is_own = !is_greedy && temperature == 1 && !logits.has_marks;
  const auto kept_weight = [&](float weight) {
    return weight < how.min_p ? uint64_t{0} : FixedWeight(weight);
  };
  uint64_t sums[3] = {0, 0, 0};
  auto& [raw_total, total, kept] = sums;
  if (threadIdx.x < kDrawSearches) shared.gathered_count[threadIdx.x] = 0;
  ClearBins(shared);
  slice.ForEach([&](int i) {
    const float raw = logits.raw[i];
    if (!is_own) raw_total += FixedWeight(expf(raw - top.raw_max));
    if (is_greedy) return;
    const float depth = scale.Depth(logits.Penalised(raw, i));
    const int bin = DrawScale::BinAt(depth);
    if (bin == kDrawBins) return;
    const float weight = DrawScale::WeightAt(depth);
    const uint64_t fixed = FixedWeight(weight);
    total += fixed;
    kept += kept_weight(weight);
    if (is_ordered) AddToBin(shared, bin, fixed);
  });
  if (is_own) raw_total = total;
  slice.OverRow(sums, Add());

  const auto found = [&](int i) {
    args.tokens[row] = static_cast<uint32_t>(slice.begin() + i);
    args.finite[row] = 1;
    args.log_probs[row] =
        static_cast<float>(double{logits.raw[i]} - double{top.raw_max} -
                           log(static_cast<double>(raw_total) * 0x1p-40));
  };
  bool is_drawn = false;
  if (!is_greedy) {
    const uint64_t random = RandomBits(how.seed, how.position);
    if (is_ordered) {
      const Mass coarse = MergeBins(shared);
      is_drawn = DrawByOrder(shared,
                             slice,
                             scale,
                             logits,
                             how,
                             coarse,
                             total,
                             kept,
                             random,
                             found);
    } else if (kept > 0) {
      const auto weight = [&](int i) {
        return kept_weight(DrawScale::WeightAt(scale.Depth(logits(i))));
      };
      slice.FindById(weight, __umul64hi(random, kept), found);
      is_drawn = true;
    }
  }
  const int at = top.token - slice.begin();
  if (!is_drawn && at >= 0 && at < slice.count() && threadIdx.x == 0) found(at);
  RowBlocks::Sync();
}

constexpr int kScoreThreads = 512;
constexpr int kScoreEach = 4;  // pieces that a thread has in flight

// The largest of some logits and the sum of exp(logit - max).
struct LogitSum {
  float max = -INFINITY;
  float sum = 0;
  bool is_finite = true;

  template <int kCount>
  __device__ void Take(const float (&x)[kCount]) {
    float high = max;
#pragma unroll
    for (const float y : x) {
      is_finite &= fabsf(y) <= FLT_MAX;
      high = fmaxf(high, y);
    }
    float more = 0;
#pragma unroll
    for (const float y : x) more += __expf(y - high);
    sum = sum * __expf(max - high) + more;
    max = high;
  }
};

__device__ LogitSum SumOfRow(const float* row, int32_t count, bool is_aligned) {
  LogitSum sum;
  const int thread = static_cast<int>(threadIdx.x);
  int done = 0;
  if (is_aligned) {
    constexpr int kTurn = kScoreThreads * kScoreEach * 4;
    for (; done + kTurn <= count; done += kTurn) {
      float x[kScoreEach * 4];
#pragma unroll
      for (int i = 0; i < kScoreEach; ++i) {
        const float4 y = __ldcs(reinterpret_cast<const float4*>(row + done) +
                                i * kScoreThreads + thread);
        x[4 * i] = y.x;
        x[4 * i + 1] = y.y;
        x[4 * i + 2] = y.z;
        x[4 * i + 3] = y.w;
      }
      sum.Take(x);
    }
  }
#pragma unroll 4
  for (int i = done + thread; i < count; i += kScoreThreads) {
    const float x[1] = {row[i]};
    sum.Take(x);
  }
  return sum;
}

__global__ void __launch_bounds__(kScoreThreads)
    ScoreKernel(const __grid_constant__ TokenScoresArgs args, bool is_aligned) {
  constexpr int kWarps = kScoreThreads / 32;
  __shared__ float maxima[kWarps];
  __shared__ double sums[kWarps];
  const int64_t row = blockIdx.x;
  const float* logits = args.logits + row * args.stride;
  const LogitSum mine = SumOfRow(logits, args.vocabulary, is_aligned);
  float max = mine.max;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, step));
  }
  if (DrawLane() == 0) maxima[DrawWarp()] = max;
  const bool is_finite = __syncthreads_and(mine.is_finite) != 0;
  for (const float x : maxima) max = fmaxf(max, x);
  double sum = double{mine.sum} * double{expf(mine.max - max)};
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  if (DrawLane() == 0) sums[DrawWarp()] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (const double x : sums) total += x;
  const uint32_t target = args.targets[row];
  const bool is_known = target < static_cast<uint32_t>(args.vocabulary);
  args.scores[row] = is_known && is_finite
                         ? static_cast<float>(double{logits[target]} -
                                              double{max} - log(total))
                         : NAN;
}

constexpr int StaticBytes() { return static_cast<int>(sizeof(DrawShared)); }
// Of a block whose logits lie in shared memory.
constexpr int StagedBytes(int share) {
  return StaticBytes() + share / 8 + share * static_cast<int>(sizeof(float));
}

// As many as the vocabulary is worth; fewer where the rows keep the card busy,
// and the logits still have room in shared memory. A block has a
// multiprocessor's registers. The result does not depend on it.
int BlocksOfRow(const DrawArgs& args, const Card& card) {
  int blocks = 1;
  while (card.has_copy_engine() && blocks < kDrawBlocksMax &&
         blocks * kTokensOfBlock < args.vocabulary) {
    blocks *= 2;
  }
  while (blocks > 1 && int64_t{args.rows} * blocks > card.multiprocessors &&
         StagedBytes(DrawShare(args.vocabulary, blocks / 2)) <=
             card.shared_bytes) {
    blocks /= 2;
  }
  return blocks;
}

}  // namespace

cudaError_t DrawTokens(const DrawArgs& args, cudaStream_t stream) {
  if (args.rows < 0 || args.vocabulary < 1 ||
      args.vocabulary > kDrawVocabularyMax || args.stride < args.vocabulary) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0) return cudaSuccess;
  const Card& card = ThisCard();
  if (!card.has_copy_engine() &&
      args.vocabulary > kDrawVocabularyMaxOfOneBlock) {
    return cudaErrorInvalidValue;
  }
  const int blocks = BlocksOfRow(args, card);
  const int share = DrawShare(args.vocabulary, blocks);
  const bool is_staged = StagedBytes(share) <= card.shared_bytes;
  const auto kernel = is_staged ? DrawKernel<true> : DrawKernel<false>;
  const int bytes = is_staged ? StagedBytes(share) - StaticBytes() : share / 8;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(args.rows) * blocks);
  config.blockDim = dim3(kDrawThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = blocks > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args);
}

cudaError_t TokenScores(const TokenScoresArgs& args, cudaStream_t stream) {
  if (args.rows < 0 || args.rows > INT32_MAX || args.vocabulary < 1 ||
      args.stride < args.vocabulary) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0) return cudaSuccess;
  const bool is_aligned = args.stride % 4 == 0 &&
                          reinterpret_cast<uintptr_t>(args.logits) % 16 == 0;
  ScoreKernel<<<static_cast<unsigned>(args.rows), kScoreThreads, 0, stream>>>(
      args, is_aligned);
  return cudaGetLastError();
}

}  // namespace weir::engine
