// SPDX-License-Identifier: Apache-2.0
//
// What stands around RWKV's recurrence on a GPU, against its formulas in fp64.
#include "engine/kernels/cuda/rwkv_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/gpu/device_array.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::StateNumber;

constexpr int64_t kTokens = 5;
constexpr double kRmseMax = 1e-6;

DeviceArray<float> OnDevice(const std::vector<float>& host) {
  return DeviceArray<float>(std::span<const float>(host));
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class Normals {
 public:
  std::vector<float> Take(int64_t count, float scale = 1) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = scale * normal_(random_);
    return values;
  }

 private:
  std::mt19937 random_{20250318};
  std::normal_distribution<float> normal_;
};

void ExpectNear(const std::vector<float>& got,
                const std::vector<double>& want,
                double rmse_max = kRmseMax) {
  ASSERT_EQ(got.size(), want.size());
  double error = 0;
  double square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(got[i] - want[i], 2);
    square += std::pow(want[i], 2);
  }
  EXPECT_LE(std::sqrt(error / square), rmse_max);
}

// Heads, K, V.
struct HeadSizes {
  int32_t heads;
  int32_t key_dim;
  int32_t value_dim;
};

class RwkvRowsTest : public testing::TestWithParam<HeadSizes> {
 protected:
  static int64_t keys() {
    return int64_t{GetParam().heads} * GetParam().key_dim;
  }
  static int64_t values() {
    return int64_t{GetParam().heads} * GetParam().value_dim;
  }
  Normals normals_;
};

INSTANTIATE_TEST_SUITE_P(Heads,
                         RwkvRowsTest,
                         testing::Values(HeadSizes{2, 64, 64},
                                         HeadSizes{3, 16, 24},
                                         HeadSizes{1, 100, 7},
                                         HeadSizes{5, 1, 40}),
                         [](const auto& info) {
                           return std::to_string(info.param.heads) + "_" +
                                  std::to_string(info.param.key_dim) + "_" +
                                  std::to_string(info.param.value_dim);
                         });

TEST_P(RwkvRowsTest, Rwkv7TermsAreTheFormula) {
  const int32_t dim = GetParam().key_dim;
  const std::vector<float> w = normals_.Take(kTokens * keys(), 3);
  const std::vector<float> rate = normals_.Take(kTokens * keys(), 3);
  const std::vector<float> k = normals_.Take(kTokens * keys());
  const std::vector<float> k_k = normals_.Take(keys());
  const std::vector<float> k_a = normals_.Take(keys());
  constexpr float kEps = 1e-6F;
  DeviceArray<float> w_there = OnDevice(w);
  DeviceArray<float> rate_there = OnDevice(rate);
  DeviceArray<float> k_there = OnDevice(k);
  DeviceArray<float> k_k_there = OnDevice(k_k);
  DeviceArray<float> k_a_there = OnDevice(k_a);
  DeviceArray<float> a_there(k.size());

  ASSERT_EQ(engine::Rwkv7TermRows({.heads = GetParam().heads,
                                   .key_dim = dim,
                                   .eps = kEps,
                                   .k_k = k_k_there.data(),
                                   .k_a = k_a_there.data(),
                                   .w = w_there.data(),
                                   .rate = rate_there.data(),
                                   .k = k_there.data(),
                                   .a = a_there.data()},
                                  kTokens,
                                  nullptr),
            cudaSuccess);

  std::vector<double> decay, b, key, a;
  for (int64_t at = 0; at < kTokens * keys(); ++at) {
    const int64_t weight = at % keys();
    const int64_t head = at - at % dim;
    double squares = 0;
    for (int64_t i = head; i < head + dim; ++i) {
      squares += std::pow(double{k[i]} * k_k[i % keys()], 2);
    }
    const double u = double{k[at]} * k_k[weight] / std::sqrt(squares + kEps);
    const double i = Sigmoid(rate[at]);
    decay.push_back(-std::exp(-0.5) * Sigmoid(w[at]) / std::log(2.0));
    a.push_back(-u);
    b.push_back(u * i);
    key.push_back(k[at] * (1 + (i - 1) * k_a[weight]));
  }
  ExpectNear(w_there.Get(), decay);
  ExpectNear(a_there.Get(), a);
  ExpectNear(rate_there.Get(), b);
  ExpectNear(k_there.Get(), key);
}

TEST_P(RwkvRowsTest, Rwkv7BonusIsTheFormula) {
  const HeadSizes of = GetParam();
  const std::vector<float> r_k = normals_.Take(keys());
  const std::vector<float> r = normals_.Take(kTokens * keys());
  const std::vector<float> k = normals_.Take(kTokens * keys());
  const std::vector<float> v = normals_.Take(kTokens * values());
  const std::vector<float> g = normals_.Take(kTokens * values());
  const std::vector<float> y = normals_.Take(kTokens * values());
  DeviceArray<float> r_k_there = OnDevice(r_k);
  DeviceArray<float> r_there = OnDevice(r);
  DeviceArray<float> k_there = OnDevice(k);
  DeviceArray<float> v_there = OnDevice(v);
  DeviceArray<float> g_there = OnDevice(g);
  DeviceArray<float> y_there = OnDevice(y);
  DeviceArray<float> wide(y.size());
  DeviceArray<uint16_t> narrow(y.size());
  const engine::Rwkv7BonusArgs args = {.heads = of.heads,
                                       .key_dim = of.key_dim,
                                       .value_dim = of.value_dim,
                                       .r_k = r_k_there.data(),
                                       .r = r_there.data(),
                                       .k = k_there.data(),
                                       .v = v_there.data(),
                                       .g = g_there.data(),
                                       .y = y_there.data()};

  ASSERT_EQ(engine::Rwkv7BonusRows(
                args, StateNumber::kFloat32, wide.data(), kTokens, nullptr),
            cudaSuccess);
  ASSERT_EQ(engine::Rwkv7BonusRows(
                args, StateNumber::kBfloat16, narrow.data(), kTokens, nullptr),
            cudaSuccess);

  std::vector<double> want;
  for (int64_t at = 0; at < kTokens * values(); ++at) {
    const int64_t item = at / of.value_dim;
    double bonus = 0;
    for (int64_t i = item * of.key_dim; i < (item + 1) * of.key_dim; ++i) {
      bonus += double{r[i]} * k[i] * r_k[i % keys()];
    }
    want.push_back((y[at] + bonus * v[at]) * g[at]);
  }
  ExpectNear(wide.Get(), want);
  std::vector<float> rounded;
  for (const uint16_t bits : narrow.Get()) {
    rounded.push_back(FromBfloat16(bits));
  }
  ExpectNear(rounded, want, 4e-3);
}

TEST_P(RwkvRowsTest, NumbersOneByOneAreTheFormulas) {
  const int64_t count = kTokens * values();
  const std::vector<float> first = normals_.Take(count);
  const std::vector<float> mix = normals_.Take(count, 3);
  const std::vector<float> v = normals_.Take(count);
  DeviceArray<float> first_there = OnDevice(first);
  DeviceArray<float> mix_there = OnDevice(mix);
  DeviceArray<float> v_there = OnDevice(v);
  DeviceArray<float> decay_there = OnDevice(mix);
  DeviceArray<float> residual_there = OnDevice(v);

  ASSERT_EQ(engine::Rwkv7ValueRows(first_there.data(),
                                   mix_there.data(),
                                   static_cast<int32_t>(values()),
                                   v_there.data(),
                                   kTokens,
                                   nullptr),
            cudaSuccess);
  ASSERT_EQ(engine::Rwkv6DecayRows(decay_there.data(), count, nullptr),
            cudaSuccess);
  ASSERT_EQ(engine::AddGatedNumbers(mix_there.data(),
                                    first_there.data(),
                                    count,
                                    residual_there.data(),
                                    nullptr),
            cudaSuccess);

  std::vector<double> mixed, decay, residual;
  for (size_t i = 0; i < v.size(); ++i) {
    mixed.push_back(v[i] + (double{first[i]} - v[i]) * Sigmoid(mix[i]));
    decay.push_back(-std::exp(double{mix[i]}) / std::log(2.0));
    residual.push_back(v[i] + Sigmoid(mix[i]) * first[i]);
  }
  ExpectNear(v_there.Get(), mixed);
  ExpectNear(decay_there.Get(), decay);
  ExpectNear(residual_there.Get(), residual);
}

}  // namespace
}  // namespace weir::gpu
