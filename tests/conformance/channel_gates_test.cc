// SPDX-License-Identifier: Apache-2.0
//
// The gates of a decay a channel against fp64, on every target of the machine.
#include "engine/kernels/channel_gates.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr double kLog2E = 1.4426950408889634;

class ChannelGatesTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

// From far below zero to far above, most of them near.
std::vector<float> Range() {
  std::vector<float> x;
  for (float y = -80; y <= 80; y += 0.37F) x.push_back(y);
  return x;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Softplus(double x) {
  return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
}

void ExpectClose(double got, double want) {
  EXPECT_NEAR(got, want, 2e-6 * std::fabs(want) + 1e-37);
}

TEST_P(ChannelGatesTest, LogSigmoidDecays) {
  const std::vector<float> x = Range();
  const auto width = static_cast<int32_t>(x.size());
  for (const float low : {0.0F, -0.5F}) {
    std::vector<float> out(x.size());

    LogSigmoidDecays({.width = width,
                      .x = {x.data(), width},
                      .scale = 1.0F / 16,
                      .low = low,
                      .log2_decay = out.data()},
                     0,
                     1);

    for (int32_t i = 0; i < width; ++i) {
      double want = -Softplus(-double{x[i]}) / 16;
      if (low < 0) want = std::fmax(want, low);
      ExpectClose(out[i], want * kLog2E);
    }
  }
}

TEST_P(ChannelGatesTest, HgrnGatesKeepTheirDigitsAtBothEnds) {
  const std::vector<float> f = Range();
  const auto width = static_cast<int32_t>(f.size());
  for (const float low : {0.0F, 0.25F}) {
    const std::vector<float> lows(f.size(), low);
    std::vector<float> log2_decay(f.size());
    std::vector<float> k(f.size());

    HgrnGates({.width = width,
               .f = {f.data(), width},
               .low = low > 0 ? lows.data() : nullptr,
               .log2_decay = log2_decay.data(),
               .k = k.data()},
              0,
              1);

    for (int32_t i = 0; i < width; ++i) {
      const double taken = (1 - double{low}) * Sigmoid(-double{f[i]});
      ExpectClose(k[i], taken);
      const double want =
          taken < 0.5 ? std::log1p(-taken)
                      : std::log(low + (1 - double{low}) * Sigmoid(f[i]));
      ExpectClose(log2_decay[i], want * kLog2E);
    }
  }
}

TEST_P(ChannelGatesTest, KdaGatesOfBothKinds) {
  constexpr int32_t kHeads = 4;
  constexpr int32_t kKeyDim = 21;
  constexpr int64_t kTokens = 3;
  std::vector<float> f(kTokens * kHeads * kKeyDim);
  std::vector<float> k(kTokens * 2 * kKeyDim);
  std::vector<float> b(kTokens * kHeads);
  for (size_t i = 0; i < f.size(); ++i) f[i] = std::sin(0.7F * i) * 4;
  for (size_t i = 0; i < k.size(); ++i) k[i] = std::cos(0.3F * i);
  for (size_t i = 0; i < b.size(); ++i) b[i] = std::sin(1.1F * i);
  const std::vector<float> a_log = {-1, 0, 0.5F, 2};
  const std::vector<float> dt_bias(kHeads * kKeyDim, 0.3F);
  for (const float bound : {0.0F, -5.0F}) {
    std::vector<float> log2_decay(f.size());
    std::vector<float> a(f.size());
    std::vector<float> beta(b.size());

    KdaGates({.heads = kHeads,
              .key_heads = 2,
              .key_dim = kKeyDim,
              .f = {f.data(), kHeads * kKeyDim},
              .b = {b.data(), kHeads},
              .k = {k.data(), 2 * kKeyDim},
              .a_log = a_log.data(),
              .dt_bias = dt_bias.data(),
              .bound = bound,
              .beta_scale = 2,
              .log2_decay = log2_decay.data(),
              .a = a.data(),
              .beta = beta.data()},
             0,
             kTokens);

    for (size_t i = 0; i < f.size(); ++i) {
      const size_t token = i / (kHeads * kKeyDim);
      const size_t head = i / kKeyDim % kHeads;
      const double x = double{f[i]} + dt_bias[0];
      const double rate = std::exp(double{a_log[head]});
      const double g =
          bound < 0 ? bound * Sigmoid(rate * x) : -rate * Softplus(x);
      ExpectClose(log2_decay[i], g * kLog2E);
      const double key = k[(token * 2 + head / 2) * kKeyDim + i % kKeyDim];
      EXPECT_NEAR(a[i], -std::exp(g) * key, 1e-5);
    }
    for (size_t i = 0; i < b.size(); ++i) {
      ExpectClose(beta[i], 2 * Sigmoid(b[i]));
    }
  }
}

TEST_P(ChannelGatesTest, Gdn2GatesForEveryHeadThatReadsThem) {
  constexpr int32_t kKeyHeads = 2;
  constexpr int32_t kSharing = 3;
  constexpr int32_t kKeyDim = 21;
  constexpr int64_t kTokens = 3;
  constexpr int64_t kWidth = kKeyHeads * kKeyDim;
  std::vector<float> f(kTokens * kWidth);
  std::vector<float> b(f.size());
  std::vector<float> k(f.size());
  for (size_t i = 0; i < f.size(); ++i) {
    f[i] = std::sin(0.7F * i) * 4;
    b[i] = std::sin(1.1F * i) * 3;
    k[i] = std::cos(0.3F * i);
  }
  const std::vector<float> a_log = {-1, 2};
  std::vector<float> dt_bias(kWidth);
  for (int64_t i = 0; i < kWidth; ++i) dt_bias[i] = 0.3F + 0.01F * i;
  for (const float erase_scale : {1.0F, 2.0F}) {
    std::vector<float> log2_decay(f.size() * kSharing);
    std::vector<float> a(log2_decay.size());

    Gdn2Gates({.heads = kKeyHeads * kSharing,
               .key_heads = kKeyHeads,
               .key_dim = kKeyDim,
               .f = {f.data(), kWidth},
               .b = {b.data(), kWidth},
               .k = {k.data(), kWidth},
               .a_log = a_log.data(),
               .dt_bias = dt_bias.data(),
               .erase_scale = erase_scale,
               .log2_decay = log2_decay.data(),
               .a = a.data()},
              0,
              kTokens);

    for (size_t i = 0; i < a.size(); ++i) {
      const size_t token = i / (kWidth * kSharing);
      const size_t key_head = i / kKeyDim % (kKeyHeads * kSharing) / kSharing;
      const size_t channel = key_head * kKeyDim + i % kKeyDim;
      const size_t from = token * kWidth + channel;
      const double g = -std::exp(double{a_log[key_head]}) *
                       Softplus(double{f[from]} + dt_bias[channel]);
      ExpectClose(log2_decay[i], g * kLog2E);
      const double erase = erase_scale * Sigmoid(b[from]);
      EXPECT_NEAR(a[i], -std::exp(g) * erase * k[from], 1e-5);
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
                         ChannelGatesTest,
                         testing::ValuesIn(Targets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace weir::engine
