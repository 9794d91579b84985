// SPDX-License-Identifier: Apache-2.0
//
// Each function of pointwise.h against plain fp64 code, on every target of the
// machine; ordinary values and the ends of the range.
#include "engine/kernels/pointwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();
constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kTokens = 5;
constexpr int64_t kGap = 3;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Silu(double x) { return x * Sigmoid(x); }
double Softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
}

std::vector<float> Normal(int64_t count, float scale = 1) {
  static std::mt19937 random(20240604);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(count);
  for (float& y : x) y = normal(random);
  return x;
}

// Equal up to a relative error and the smallest normal float.
void ExpectClose(double got, double want, double relative = 1e-6) {
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got)) << got;
  } else if (std::isinf(want) || std::fabs(want) > kMax) {
    EXPECT_TRUE(std::isinf(got) && (got > 0) == (want > 0)) << got;
  } else {
    EXPECT_NEAR(got, want, relative * std::fabs(want) + 1.2e-38);
  }
}

class PointwiseTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

// Everything from far below to far above, dense around zero.
std::vector<float> WholeRange() {
  std::vector<float> x = {0.0F,
                          -0.0F,
                          kInfinity,
                          -kInfinity,
                          kNan,
                          kMax,
                          -kMax,
                          1e-38F,
                          -1e-38F,
                          1e-42F,
                          -1e-42F,
                          88.7F,
                          -88.7F,
                          88.8F,
                          -88.8F,
                          104.0F,
                          -104.0F,
                          1e9F,
                          -1e9F};
  for (float y = -110; y <= 110; y += 0.037F) x.push_back(y);
  for (float y = 1e-30F; y < 1; y *= 1.7F) {
    x.push_back(y);
    x.push_back(-y);
  }
  return x;
}

TEST_P(PointwiseTest, SiluMultiplyOverTheWholeRange) {
  const std::vector<float> gate = WholeRange();
  const auto width = static_cast<int32_t>(gate.size());
  const std::vector<float> up(width, 1.0F);
  std::vector<float> out(width);

  SiluMultiply(
      {gate.data(), width}, {up.data(), width}, width, out.data(), 0, 1);

  for (int32_t i = 0; i < width; ++i) {
    SCOPED_TRACE(testing::Message() << "silu(" << gate[i] << ")");
    if (gate[i] == -kInfinity) {
      // As in fp32 everywhere: -infinity over infinity.
      EXPECT_TRUE(std::isnan(out[i]));
    } else if (!(gate[i] <= -88)) {
      ExpectClose(out[i], Silu(gate[i]), 5e-7);
    } else {
      // Below, e^-x is no longer a float, and neither is the result.
      EXPECT_NEAR(out[i], 0, 1e-36);
    }
  }
}

TEST_P(PointwiseTest, SiluMultiplyReadsStridedTokens) {
  constexpr int32_t kWidth = 37;
  const std::vector<float> gate = Normal(kTokens * (kWidth + kGap));
  const std::vector<float> up = Normal(kTokens * (kWidth + 2 * kGap));
  std::vector<float> out(kTokens * kWidth, 9);

  SiluMultiply({gate.data(), kWidth + kGap},
               {up.data(), kWidth + 2 * kGap},
               kWidth,
               out.data(),
               1,
               kTokens);

  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t i = 0; i < kWidth; ++i) {
      const double want =
          Silu(gate[t * (kWidth + kGap) + i]) * up[t * (kWidth + 2 * kGap) + i];
      ExpectClose(out[t * kWidth + i], t < 1 ? 9 : want);
    }
  }

  SiluMultiply({gate.data(), kWidth + kGap}, {}, kWidth, out.data(), 0, 1);
  for (int64_t i = 0; i < kWidth; ++i) ExpectClose(out[i], Silu(gate[i]));
}

TEST_P(PointwiseTest, DeltaGatesOverTheWholeRange) {
  const std::vector<float> x = WholeRange();
  const auto heads = static_cast<int32_t>(x.size());
  const std::vector<float> a_log(heads, 0.7F);
  const std::vector<float> dt_bias(heads, 0.0F);
  std::vector<float> log2_decay(heads);
  std::vector<float> beta(heads);
  DeltaGateArgs args;
  args.heads = heads;
  args.a = {x.data(), heads};
  args.b = {x.data(), heads};
  args.a_log = a_log.data();
  args.dt_bias = dt_bias.data();
  args.beta_scale = 2;
  args.log2_decay = log2_decay.data();
  args.beta = beta.data();

  DeltaGates(args, 0, 1);

  for (int32_t i = 0; i < heads; ++i) {
    SCOPED_TRACE(testing::Message() << "of " << x[i]);
    const double rate = -std::exp(double{a_log[i]}) * kLog2E;
    ExpectClose(log2_decay[i], rate * Softplus(x[i]));
    if (x[i] > -88 || x[i] == -kInfinity || std::isnan(x[i])) {
      ExpectClose(beta[i], 2 * Sigmoid(x[i]), 5e-7);
    } else {
      EXPECT_NEAR(beta[i], 0, 1e-37);
    }
  }
}

TEST_P(PointwiseTest, DeltaGatesReadStridedTokensAndAddTheBias) {
  constexpr int32_t kHeads = 6;
  const std::vector<float> a = Normal(kTokens * (kHeads + kGap), 4);
  const std::vector<float> b = Normal(kTokens * (kHeads + kGap));
  const std::vector<float> a_log = Normal(kHeads);
  const std::vector<float> dt_bias = Normal(kHeads);
  std::vector<float> log2_decay(kTokens * kHeads);
  std::vector<float> beta(kTokens * kHeads);
  DeltaGateArgs args;
  args.heads = kHeads;
  args.a = {a.data(), kHeads + kGap};
  args.b = {b.data(), kHeads + kGap};
  args.a_log = a_log.data();
  args.dt_bias = dt_bias.data();
  args.log2_decay = log2_decay.data();
  args.beta = beta.data();

  DeltaGates(args, 0, kTokens);

  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const int64_t from = t * (kHeads + kGap) + h;
      const double dt = Softplus(double{a[from] + dt_bias[h]});
      ExpectClose(log2_decay[t * kHeads + h],
                  -std::exp(double{a_log[h]}) * dt * kLog2E);
      ExpectClose(beta[t * kHeads + h], Sigmoid(b[from]));
    }
  }
}

TEST_P(PointwiseTest, TimeStepClampsAndScalesTheValues) {
  constexpr int32_t kHeads = 19;
  constexpr int32_t kDim = 21;
  const std::vector<float> raw = Normal(kTokens * (kHeads + kGap), 5);
  const std::vector<float> x = Normal(kTokens * (kHeads * kDim + kGap));
  const std::vector<float> a_log = Normal(kHeads);
  const std::vector<float> dt_bias = Normal(kHeads);
  std::vector<float> log2_decay(kTokens * kHeads);
  std::vector<float> v(kTokens * kHeads * kDim);
  TimeStepArgs args;
  args.heads = kHeads;
  args.head_dim = kDim;
  args.dt = {raw.data(), kHeads + kGap};
  args.x = {x.data(), kHeads * kDim + kGap};
  args.a_log = a_log.data();
  args.dt_bias = dt_bias.data();
  args.dt_min = 0.01F;
  args.dt_max = 3.0F;
  args.log2_decay = log2_decay.data();
  args.v = v.data();

  TimeStep(args, 0, kTokens);

  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const double sum = raw[t * (kHeads + kGap) + h] + dt_bias[h];
      const double dt =
          std::clamp<double>(Softplus(sum), args.dt_min, args.dt_max);
      ExpectClose(log2_decay[t * kHeads + h],
                  -std::exp(double{a_log[h]}) * dt * kLog2E);
      for (int64_t i = 0; i < kDim; ++i) {
        const double want = dt * x[t * (kHeads * kDim + kGap) + h * kDim + i];
        ExpectClose(v[(t * kHeads + h) * kDim + i], want);
      }
    }
  }
}

TEST_P(PointwiseTest, TimeStepPassesANanThroughTheClamp) {
  const float raw = kNan;
  const float x = 1;
  const float zero = 0;
  float log2_decay = 0;
  float v = 0;
  TimeStepArgs args;
  args.heads = args.head_dim = 1;
  args.dt = {&raw, 1};
  args.x = {&x, 1};
  args.a_log = args.dt_bias = &zero;
  args.dt_max = kInfinity;
  args.log2_decay = &log2_decay;
  args.v = &v;

  TimeStep(args, 0, 1);

  EXPECT_TRUE(std::isnan(log2_decay));
  EXPECT_TRUE(std::isnan(v));
}

double InverseRms(const float* x, int64_t width, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += double{x[i]} * x[i];
  return 1 / std::sqrt(sum / static_cast<double>(width) + eps);
}

TEST_P(PointwiseTest, NormEqualsFp64AndMayAlias) {
  for (const int32_t width : {1, 15, 64, 259}) {
    for (const float scale : {1e-12F, 1.0F, 1e12F}) {
      const std::vector<float> x = Normal(kTokens * width, scale);
      const std::vector<float> weight = Normal(width);
      const NormArgs args = {
          .width = width, .weight = weight.data(), .eps = 1e-6F};
      std::vector<float> out(x.size());
      std::vector<float> aliased = x;

      Norm(args, {x.data(), width}, out.data(), 0, kTokens);
      Norm(args, {aliased.data(), width}, aliased.data(), 0, kTokens);

      for (int64_t i = 0; i < kTokens * width; ++i) {
        const float* row = x.data() + i / width * width;
        const double factor = InverseRms(row, width, 1e-6);
        ExpectClose(out[i], x[i] * factor * weight[i % width]);
      }
      EXPECT_EQ(aliased, out);
    }
  }
}

TEST_P(PointwiseTest, CenteredNormTakesTheMeanAwayAndAddsTheBias) {
  for (const int32_t width : {2, 15, 64, 259}) {
    std::vector<float> x = Normal(kTokens * width);
    for (float& y : x) y += 5;  // the missing lanes are not the mean
    const std::vector<float> weight = Normal(width);
    const std::vector<float> bias = Normal(width);
    std::vector<float> out(x.size());

    Norm({.width = width,
          .weight = weight.data(),
          .bias = bias.data(),
          .eps = 1e-5F,
          .centered = true},
         {x.data(), width},
         out.data(),
         0,
         kTokens);

    for (int64_t i = 0; i < kTokens * width; ++i) {
      const float* row = x.data() + i / width * width;
      double mean = 0;
      for (int32_t j = 0; j < width; ++j) mean += row[j];
      mean /= width;
      double square = 0;
      for (int32_t j = 0; j < width; ++j) {
        square += (row[j] - mean) * (row[j] - mean);
      }
      const double want =
          (x[i] - mean) / std::sqrt(square / width + 1e-5) * weight[i % width] +
          bias[i % width];
      EXPECT_NEAR(out[i], want, 1e-5 * (1 + std::fabs(want)));
    }
  }
}

TEST_P(PointwiseTest, NormShowsANan) {
  std::vector<float> x = Normal(2 * 40);
  x[7] = kNan;
  const std::vector<float> weight(40, 1.0F);
  std::vector<float> out(x.size());

  for (const bool centered : {false, true}) {
    Norm({.width = 40,
          .weight = weight.data(),
          .eps = 1e-6F,
          .centered = centered},
         {x.data(), 40},
         out.data(),
         0,
         2);

    for (int64_t i = 0; i < 80; ++i) EXPECT_EQ(std::isnan(out[i]), i < 40);
  }
}

TEST_P(PointwiseTest, AddNormKeepsTheSum) {
  constexpr int32_t kWidth = 45;
  const std::vector<float> start = Normal(kTokens * kWidth);
  const std::vector<float> x = Normal(kTokens * kWidth);
  const std::vector<float> weight = Normal(kWidth);
  std::vector<float> residual = start;
  std::vector<float> out(x.size());

  AddNorm({.width = kWidth, .weight = weight.data(), .eps = 1e-5F},
          residual.data(),
          x.data(),
          out.data(),
          0,
          kTokens);

  for (int64_t i = 0; i < kTokens * kWidth; ++i) {
    EXPECT_EQ(residual[i], start[i] + x[i]);
    const float* row = residual.data() + i / kWidth * kWidth;
    ExpectClose(
        out[i],
        residual[i] * InverseRms(row, kWidth, 1e-5) * weight[i % kWidth]);
  }
}

// One group of the gated norm in fp64.
std::vector<double> GatedNormInFp64(const GatedNormArgs& args,
                                    const float* x,
                                    const float* z,
                                    const float* weight) {
  std::vector<double> y(x, x + args.width);
  std::vector<double> gate(args.width, 1);
  for (int32_t i = 0; i < args.width; ++i) {
    if (args.gate == GateKind::kSilu) gate[i] = Silu(z[i]);
    if (args.gate == GateKind::kSigmoid) gate[i] = Sigmoid(z[i]);
    if (args.order == GateOrder::kBeforeNorm) y[i] *= gate[i];
  }
  double sum = 0;
  for (const double value : y) sum += value * value;
  const double factor = 1 / std::sqrt(sum / args.width + args.eps);
  for (int32_t i = 0; i < args.width; ++i) {
    y[i] *= factor * weight[i];
    if (args.order == GateOrder::kAfterNorm) y[i] *= gate[i];
  }
  return y;
}

TEST_P(PointwiseTest, GatedNormInEveryKindAndOrder) {
  constexpr int32_t kGroups = 3;
  constexpr int32_t kWidth = 21;
  constexpr int64_t kStride = kGroups * kWidth + kGap;
  const std::vector<float> x = Normal(kTokens * kStride);
  const std::vector<float> z = Normal(kTokens * kStride, 3);
  const std::vector<float> weight = Normal(kGroups * kWidth);
  for (const GateKind gate :
       {GateKind::kNone, GateKind::kSilu, GateKind::kSigmoid}) {
    for (const GateOrder order :
         {GateOrder::kAfterNorm, GateOrder::kBeforeNorm}) {
      for (const bool shared : {false, true}) {
        std::vector<float> out(kTokens * kGroups * kWidth);
        GatedNormArgs args;
        args.groups = kGroups;
        args.width = kWidth;
        args.x = {x.data(), kStride};
        if (gate != GateKind::kNone) args.z = {z.data(), kStride};
        args.weight = weight.data();
        args.shared_weight = shared;
        args.eps = 1e-5F;
        args.gate = gate;
        args.order = order;
        args.out = out.data();

        GatedNorm(args, 0, kTokens);

        for (int64_t i = 0; i < kTokens * kGroups; ++i) {
          const int64_t group = i % kGroups * kWidth;
          const int64_t from = i / kGroups * kStride + group;
          const std::vector<double> want =
              GatedNormInFp64(args,
                              x.data() + from,
                              z.data() + from,
                              weight.data() + (shared ? 0 : group));
          for (int32_t j = 0; j < kWidth; ++j) {
            ExpectClose(out[i * kWidth + j], want[j]);
          }
        }
      }
    }
  }
}

TEST_P(PointwiseTest, GatedNormMayAliasItsInput) {
  constexpr int32_t kWidth = 37;
  std::vector<float> x = Normal(kTokens * kWidth);
  const std::vector<float> z = Normal(kTokens * kWidth);
  const std::vector<float> weight = Normal(kWidth);
  std::vector<float> out(x.size());
  GatedNormArgs args;
  args.groups = 1;
  args.width = kWidth;
  args.x = {x.data(), kWidth};
  args.z = {z.data(), kWidth};
  args.weight = weight.data();
  args.eps = 1e-5F;
  args.out = out.data();

  GatedNorm(args, 0, kTokens);
  args.out = x.data();
  GatedNorm(args, 0, kTokens);

  EXPECT_EQ(x, out);
}

TEST_P(PointwiseTest, NormalizeHeadsLeavesTheGapsAlone) {
  constexpr int32_t kHeads = 3;
  constexpr int32_t kDim = 20;
  constexpr int64_t kStride = kHeads * kDim + kGap;
  const std::vector<float> start = Normal(kTokens * kStride);

  for (const HeadNorm norm : {HeadNorm::kL2, HeadNorm::kL1}) {
    std::vector<float> x = start;
    NormalizeHeads({.norm = norm,
                    .heads = kHeads,
                    .dim = kDim,
                    .x = x.data(),
                    .stride = kStride,
                    .eps = 1e-6F,
                    .scale = 0.25F},
                   0,
                   kTokens);

    for (int64_t i = 0; i < kTokens * kStride; ++i) {
      const int64_t column = i % kStride;
      if (column >= kHeads * kDim) {
        EXPECT_EQ(x[i], start[i]);
        continue;
      }
      double squares = 1e-6;
      double sum = 0;
      const int64_t head = i - column % kDim;
      for (int64_t j = 0; j < kDim; ++j) {
        squares += double{start[head + j]} * start[head + j];
        sum += std::fabs(start[head + j]);
      }
      const double length = norm == HeadNorm::kL2 ? std::sqrt(squares) : sum;
      ExpectClose(x[i], start[i] * 0.25 / length);
    }
  }
}

TEST_P(PointwiseTest, NormalizeHeadsOfZeroIsZeroAndOfNanIsNan) {
  for (const HeadNorm norm : {HeadNorm::kL2, HeadNorm::kL1}) {
    std::vector<float> x(40, 0.0F);
    x[25] = std::numeric_limits<float>::quiet_NaN();

    NormalizeHeads({.norm = norm,
                    .heads = 2,
                    .dim = 20,
                    .x = x.data(),
                    .stride = 40,
                    .eps = 1e-6F},
                   0,
                   1);

    EXPECT_EQ(std::vector<float>(x.begin(), x.begin() + 20),
              std::vector<float>(20, 0.0F));
    for (size_t i = 20; i < x.size(); ++i) EXPECT_TRUE(std::isnan(x[i]));
  }
}

TEST_P(PointwiseTest, AddSkipAddsEachHeadsShare) {
  constexpr int32_t kHeads = 3;
  constexpr int32_t kDim = 19;
  constexpr int64_t kStride = kHeads * kDim + kGap;
  const std::vector<float> x = Normal(kTokens * kStride);
  const std::vector<float> d = Normal(kHeads);
  const std::vector<float> start = Normal(kTokens * kHeads * kDim);
  std::vector<float> out = start;

  AddSkip({x.data(), kStride}, d.data(), kHeads, kDim, out.data(), 0, kTokens);

  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t column = i % (kHeads * kDim);
    const int64_t from = i / (kHeads * kDim) * kStride + column;
    const double add = double{d[column / kDim]} * x[from];
    EXPECT_NEAR(out[i], start[i] + add, 1e-6);
  }
}

TEST_P(PointwiseTest, LogProbabilitiesEqualFp64) {
  for (const int32_t vocabulary : {1, 7, 256, 50001}) {
    for (const float scale : {0.1F, 10.0F, 1e6F}) {
      const std::vector<float> logits = Normal(kTokens * vocabulary, scale);
      std::vector<uint32_t> targets(kTokens);
      for (int64_t t = 0; t < kTokens; ++t) targets[t] = t * 31 % vocabulary;
      std::vector<float> scores(kTokens);

      LogProbabilities(
          logits.data(), targets.data(), vocabulary, scores.data(), 0, kTokens);

      for (int64_t t = 0; t < kTokens; ++t) {
        const float* row = logits.data() + t * vocabulary;
        const double max = *std::max_element(row, row + vocabulary);
        double sum = 0;
        for (int32_t i = 0; i < vocabulary; ++i) sum += std::exp(row[i] - max);
        const double want = row[targets[t]] - max - std::log(sum);
        EXPECT_NEAR(scores[t], want, 1e-6 * (1 + std::fabs(want)));
      }
    }
  }
}

TEST_P(PointwiseTest, ALogitThatIsNotFiniteMakesTheScoreNan) {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    for (const int64_t at : {0, 17, 39}) {
      std::vector<float> logits = Normal(2 * 40);
      logits[at] = bad;
      const std::vector<uint32_t> targets = {3, 3};
      std::vector<float> scores(2);

      LogProbabilities(logits.data(), targets.data(), 40, scores.data(), 0, 2);

      EXPECT_TRUE(std::isnan(scores[0]));
      EXPECT_FALSE(std::isnan(scores[1]));
    }
  }
}

TEST_P(PointwiseTest, AllFiniteFindsTheOneThatIsNot) {
  for (int64_t count = 0; count < 70; ++count) {
    std::vector<float> x = Normal(count, 1e30F);
    x.push_back(kNan);
    if (count > 0) x[count / 2] = kMax;
    EXPECT_TRUE(AllFinite(x.data(), count));

    for (int64_t at = 0; at < count; ++at) {
      for (const float bad : {kNan, kInfinity, -kInfinity}) {
        std::vector<float> marked = x;
        marked[at] = bad;
        EXPECT_FALSE(AllFinite(marked.data(), count));
      }
    }
  }
}

std::vector<std::string> Targets() {
  std::vector<std::string> targets;
  for (const std::string_view name : KernelTargets()) {
    targets.emplace_back(name);
  }
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Targets,
                         PointwiseTest,
                         testing::ValuesIn(Targets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace weir::engine
