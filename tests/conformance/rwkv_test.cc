// SPDX-License-Identifier: Apache-2.0
//
// Each function of token_shift.h, activation.h and rwkv.h against plain fp64
// code, on every target of the machine.
#include "engine/kernels/rwkv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/activation.h"
#include "engine/kernels/kernel_target.h"
#include "engine/kernels/token_shift.h"

namespace weir::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMark = -7.5e30F;
constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kTokens = 5;
constexpr int64_t kGap = 3;
constexpr int32_t kWidths[] = {1, 16, 37, 64, 200};

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

std::vector<float> Normal(int64_t count, float scale = 1) {
  static std::mt19937 random(20250318);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(count);
  for (float& y : x) y = normal(random);
  return x;
}

void ExpectClose(double got, double want, double relative = 1e-6) {
  EXPECT_NEAR(got, want, relative * std::fabs(want) + 1.2e-38);
}

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class RwkvTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

struct ShiftCase {
  ShiftCase(int32_t channels_in, const std::vector<int32_t>& row_tokens)
      : channels(channels_in) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    x = Normal(row_starts.back() * (channels + kGap));
    delta.assign(int64_t{row_starts.back()} * channels, kMark);
    state = Normal(static_cast<int64_t>(slots.size()) * (channels + kGap));
  }

  TokenShiftArgs Args() {
    return {.rows = static_cast<int32_t>(slots.size()),
            .channels = channels,
            .row_starts = row_starts.data(),
            .slots = slots.data(),
            .x = {x.data(), channels + kGap},
            .delta = delta.data(),
            .state = state.data(),
            .state_stride = channels + kGap};
  }
  int64_t items() const {
    return static_cast<int64_t>(slots.size()) * ChannelBlocks(channels);
  }
  void Run() { ShiftTokens(Args(), 0, items()); }

  int32_t channels;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<float> x, delta, state;
};

TEST_P(RwkvTest, ShiftEqualsTheReferenceOverARaggedBatch) {
  for (const int32_t channels : kWidths) {
    ShiftCase got(channels, {1, 0, 2, 9, 40});
    got.slots = {4, 2, 0, -1, 1};
    ShiftCase want = got;

    got.Run();
    ShiftTokensReference(want.Args());

    EXPECT_TRUE(BitEqual(got.delta, want.delta));
    EXPECT_TRUE(BitEqual(got.state, want.state));
  }
}

TEST_P(RwkvTest, AnySplitOfAShiftedRowGivesTheSameBits) {
  ShiftCase whole(37, {20});
  ShiftCase split = whole;

  whole.Run();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    split.Run();
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(BitEqual(split.delta, whole.delta));
  EXPECT_TRUE(BitEqual(split.state, whole.state));
}

TEST_P(RwkvTest, ItemsOfAShiftMayBeCutAnywhere) {
  ShiftCase together(200, {5, 1, 12});
  const ShiftCase apart = together;

  together.Run();
  for (const int64_t width : {1, 3, 5}) {
    ShiftCase cut = apart;
    for (int64_t end = cut.items(); end > 0; end -= width) {
      ShiftTokens(cut.Args(), std::max<int64_t>(0, end - width), end);
    }
    EXPECT_TRUE(BitEqual(cut.delta, together.delta));
    EXPECT_TRUE(BitEqual(cut.state, together.state));
  }
}

TEST_P(RwkvTest, AShiftedPaddingRowIsNeitherReadNorWritten) {
  ShiftCase got(16, {4, 4});
  got.slots = {-1, 0};
  TokenShiftArgs args = got.Args();
  // Were an address formed for slot -1, it would be far outside.
  args.state_stride = int64_t{1} << 44;

  ShiftTokens(args, 0, got.items());

  const auto second = got.delta.begin() + int64_t{4} * 16;
  EXPECT_THAT(std::vector<float>(got.delta.begin(), second),
              testing::Each(kMark));
  EXPECT_NE(*second, kMark);
}

TEST_P(RwkvTest, LerpEqualsFp64AndMayAliasWhatIsAdded) {
  for (const int32_t channels : kWidths) {
    const std::vector<float> x = Normal(kTokens * (channels + kGap));
    const std::vector<float> delta = Normal(kTokens * channels);
    const std::vector<float> mix = Normal(channels);
    const std::vector<float> add = Normal(kTokens * channels);
    for (const bool adds : {false, true}) {
      std::vector<float> out = add;
      LerpArgs args;
      args.channels = channels;
      args.x = {x.data(), channels + kGap};
      args.delta = {delta.data(), channels};
      args.mix = mix.data();
      if (adds) args.add = {out.data(), channels};
      args.out = out.data();

      Lerp(args, 0, kTokens);

      for (int64_t i = 0; i < kTokens * channels; ++i) {
        const int64_t c = i % channels;
        const double share = double{mix[c]} + (adds ? add[i] : 0.0F);
        const double from = x[i / channels * (channels + kGap) + c];
        EXPECT_NEAR(out[i], from + share * delta[i], 2e-6);
      }
    }
  }
}

TEST_P(RwkvTest, ActivationsEqualFp64) {
  std::vector<float> x = Normal(2000, 20);
  for (float& y : x) y = y * std::fabs(y);
  x.insert(x.end(), {0.0F, -0.0F, kInfinity, -kInfinity, 1e-20F, 1e18F});
  for (const Activation kind : {Activation::kNone,
                                Activation::kTanh,
                                Activation::kSigmoid,
                                Activation::kSilu,
                                Activation::kRelu,
                                Activation::kEluPlusOne,
                                Activation::kSquaredRelu}) {
    std::vector<float> got = x;
    got.push_back(kNan);

    Activate(kind, got.data(), static_cast<int64_t>(got.size()));

    EXPECT_TRUE(std::isnan(got.back()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double y = x[i];
      switch (kind) {
        case Activation::kNone:
          EXPECT_EQ(got[i], x[i]);
          break;
        case Activation::kTanh:
          EXPECT_NEAR(got[i], std::tanh(y), 3e-7);
          break;
        case Activation::kSigmoid:
          EXPECT_NEAR(got[i], Sigmoid(y), 5e-7 * Sigmoid(y) + 1e-37);
          break;
        case Activation::kSilu:
          if (!std::isfinite(x[i])) break;
          EXPECT_NEAR(
              got[i], y * Sigmoid(y), 5e-7 * std::fabs(y * Sigmoid(y)) + 1e-30);
          break;
        case Activation::kRelu:
          EXPECT_EQ(got[i], x[i] > 0 ? x[i] : 0.0F) << x[i];
          break;
        case Activation::kEluPlusOne: {
          const double want = y < 0 ? std::exp(y) : y + 1;
          const bool same = got[i] == static_cast<float>(want);
          EXPECT_TRUE(same || std::fabs(got[i] - want) <= 5e-7 * want + 1e-37)
              << x[i];
          break;
        }
        case Activation::kSquaredRelu:
          EXPECT_EQ(got[i], x[i] > 0 ? x[i] * x[i] : 0.0F) << x[i];
          break;
      }
    }
  }
}

TEST_P(RwkvTest, SigmoidMultiplyReadsStridedTokensAndMayAlias) {
  for (const int32_t width : kWidths) {
    const std::vector<float> gate = Normal(kTokens * (width + kGap), 3);
    const std::vector<float> up = Normal(kTokens * width);
    std::vector<float> out = up;

    SigmoidMultiply({gate.data(), width + kGap},
                    {out.data(), width},
                    width,
                    out.data(),
                    0,
                    kTokens);

    for (int64_t i = 0; i < kTokens * width; ++i) {
      const float x = gate[i / width * (width + kGap) + i % width];
      ExpectClose(out[i], Sigmoid(x) * up[i]);
    }
  }
}

// One head of RWKV-7's terms in fp64.
struct Terms {
  Terms(const Rwkv7TermArgs& args, int64_t head) {
    const int64_t weights = head % args.heads * args.key_dim;
    const int64_t at = head * args.key_dim;
    double sum = args.eps;
    for (int64_t c = 0; c < args.key_dim; ++c) {
      const double u = double{args.k[at + c]} * args.k_k[weights + c];
      sum += u * u;
    }
    for (int64_t c = 0; c < args.key_dim; ++c) {
      const double key = args.k[at + c];
      const double u = key * args.k_k[weights + c] / std::sqrt(sum);
      const double i = Sigmoid(args.rate[at + c]);
      a.push_back(-u);
      b.push_back(u * i);
      k.push_back(key * (1 + (i - 1) * args.k_a[weights + c]));
      log2_decay.push_back(-std::exp(-0.5) * Sigmoid(args.w[at + c]) * kLog2E);
    }
  }
  std::vector<double> a, b, k, log2_decay;
};

TEST_P(RwkvTest, Rwkv7TermsEqualFp64) {
  constexpr int32_t kHeads = 3;
  for (const int32_t dim : kWidths) {
    for (const float eps : {1e-6F, 1e-24F}) {
      std::vector<float> w = Normal(kTokens * kHeads * dim, 8);
      std::vector<float> rate = Normal(w.size(), 3);
      std::vector<float> k = Normal(w.size(), 1e-3F);
      std::vector<float> a(w.size());
      const std::vector<float> k_k = Normal(int64_t{kHeads} * dim);
      const std::vector<float> k_a = Normal(int64_t{kHeads} * dim);
      const Rwkv7TermArgs args = {.heads = kHeads,
                                  .key_dim = dim,
                                  .eps = eps,
                                  .k_k = k_k.data(),
                                  .k_a = k_a.data(),
                                  .w = w.data(),
                                  .rate = rate.data(),
                                  .k = k.data(),
                                  .a = a.data()};
      std::vector<Terms> want;
      for (int64_t h = 0; h < kTokens * kHeads; ++h) want.emplace_back(args, h);

      Rwkv7Terms(args, 0, 2);
      Rwkv7Terms(args, 2, kTokens);

      for (int64_t i = 0; i < kTokens * kHeads * dim; ++i) {
        const Terms& head = want[i / dim];
        ExpectClose(a[i], head.a[i % dim]);
        ExpectClose(rate[i], head.b[i % dim]);
        EXPECT_NEAR(k[i], head.k[i % dim], 2e-9);
        ExpectClose(w[i], head.log2_decay[i % dim]);
        EXPECT_LE(w[i], 0);
      }
    }
  }
}

TEST_P(RwkvTest, Rwkv7TermsOfAKeyOfZeroAreFinite) {
  std::vector<float> w(32), rate(32), k(32), a(32);
  const std::vector<float> ones(32, 1.0F);

  Rwkv7Terms({.heads = 1,
              .key_dim = 32,
              .eps = 1e-24F,
              .k_k = ones.data(),
              .k_a = ones.data(),
              .w = w.data(),
              .rate = rate.data(),
              .k = k.data(),
              .a = a.data()},
             0,
             1);

  EXPECT_THAT(a, testing::Each(0.0F));
  EXPECT_THAT(rate, testing::Each(0.0F));
  EXPECT_THAT(k, testing::Each(0.0F));
}

TEST_P(RwkvTest, Rwkv7ValuesLeanOnTheFirstLayers) {
  for (const int32_t width : kWidths) {
    const std::vector<float> first = Normal(kTokens * width);
    const std::vector<float> mix = Normal(kTokens * width, 3);
    const std::vector<float> own = Normal(kTokens * width);
    std::vector<float> v = own;

    Rwkv7Values(first.data(), mix.data(), width, v.data(), 0, kTokens);

    for (int64_t i = 0; i < kTokens * width; ++i) {
      EXPECT_NEAR(
          v[i], own[i] + (double{first[i]} - own[i]) * Sigmoid(mix[i]), 2e-6);
    }
  }
}

TEST_P(RwkvTest, Rwkv7BonusAndGateEqualFp64) {
  constexpr int32_t kHeads = 3;
  constexpr int32_t kValues = 21;
  for (const int32_t dim : kWidths) {
    const std::vector<float> r = Normal(kTokens * kHeads * dim);
    const std::vector<float> k = Normal(r.size());
    const std::vector<float> r_k = Normal(int64_t{kHeads} * dim);
    const std::vector<float> v = Normal(kTokens * kHeads * kValues);
    const std::vector<float> g = Normal(v.size());
    const std::vector<float> start = Normal(v.size());
    std::vector<float> y = start;

    Rwkv7Bonus({.heads = kHeads,
                .key_dim = dim,
                .value_dim = kValues,
                .r_k = r_k.data(),
                .r = r.data(),
                .k = k.data(),
                .v = v.data(),
                .g = g.data(),
                .y = y.data()},
               0,
               kTokens);

    for (size_t i = 0; i < y.size(); ++i) {
      const size_t head = i / kValues;
      double bonus = 0;
      for (int32_t c = 0; c < dim; ++c) {
        bonus += double{r[head * dim + c]} * k[head * dim + c] *
                 r_k[head % kHeads * dim + c];
      }
      EXPECT_NEAR(y[i], (start[i] + bonus * v[i]) * g[i], 4e-5);
    }
  }
}

TEST_P(RwkvTest, Rwkv6DecayEqualsFp64ToTheEnds) {
  std::vector<float> w = Normal(500, 6);
  w.insert(w.end(), {-kInfinity, kInfinity, 100.0F, -110.0F, 0.0F});
  std::vector<float> got = w;
  got.push_back(kNan);

  Rwkv6Decay(got.data(), static_cast<int64_t>(got.size()));

  EXPECT_TRUE(std::isnan(got.back()));
  for (size_t i = 0; i < w.size(); ++i) {
    const double want = -std::exp(double{w[i]}) * kLog2E;
    EXPECT_LE(got[i], 0);
    if (want < -3.4e38) {
      EXPECT_EQ(got[i], -kInfinity);
    } else {
      EXPECT_NEAR(got[i], want, 1e-6 * std::fabs(want) + 1e-37);
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
                         RwkvTest,
                         testing::ValuesIn(Targets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace weir::engine
