// SPDX-License-Identifier: Apache-2.0
//
// Products, and what stands between them, against fp64 on the host.
#include "engine/device/products.h"

#include <cuda_bf16.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "engine/kernels/cuda/layer_rows.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::GatherOutputs;
using engine::KeepOutputs;
using engine::NormArgs;
using engine::OutputRows;
using engine::ProductArgs;
using engine::Products;
using engine::ProductSource;
using engine::ProductTarget;
using engine::StateNumber;

std::vector<float> Random(size_t count, uint64_t seed, float scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// An array of one of the two numbers, and what it holds as floats.
class Numbers {
 public:
  Numbers(StateNumber number, std::vector<float> values)
      : number_(number), values_(std::move(values)), bytes_(Bytes()) {}

  void* data() { return bytes_.data(); }
  const std::vector<float>& values() const { return values_; }
  std::vector<float> Get() const {
    const std::vector<std::byte> bytes = bytes_.Get();
    std::vector<float> values(values_.size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] =
          number_ == StateNumber::kFloat32
              ? reinterpret_cast<const float*>(bytes.data())[i]
              : static_cast<float>(
                    reinterpret_cast<const __nv_bfloat16*>(bytes.data())[i]);
    }
    return values;
  }

 private:
  std::vector<std::byte> Bytes() {
    const bool is_float = number_ == StateNumber::kFloat32;
    std::vector<std::byte> bytes(values_.size() * (is_float ? 4 : 2));
    for (size_t i = 0; i < values_.size(); ++i) {
      if (is_float) {
        reinterpret_cast<float*>(bytes.data())[i] = values_[i];
      } else {
        const __nv_bfloat16 rounded(values_[i]);
        reinterpret_cast<__nv_bfloat16*>(bytes.data())[i] = rounded;
        values_[i] = static_cast<float>(rounded);
      }
    }
    return bytes;
  }

  const StateNumber number_;
  std::vector<float> values_;
  DeviceArray<std::byte> bytes_;
};

struct Shape {
  int64_t tokens;
  int32_t inputs;
  int32_t outputs;
};

class ProductsTest : public testing::TestWithParam<
                         std::tuple<StateNumber, ProductTarget, Shape>> {
 protected:
  static StateNumber number() { return std::get<0>(GetParam()); }
  static ProductTarget target() { return std::get<1>(GetParam()); }
  static Shape shape() { return std::get<2>(GetParam()); }
  size_t padded() const {
    return static_cast<size_t>(engine::PaddedTokens(shape().tokens));
  }
  // Of rows whose terms are about 1 / sqrt(inputs) each.
  double tolerance() const {
    const bool rounds =
        number() == StateNumber::kBfloat16 && target() == ProductTarget::kRows;
    return rounds ? 0.02 : 2e-5;
  }
  // The same where x was rounded before its scale, not behind it.
  static double scaled_tolerance() {
    return number() == StateNumber::kBfloat16 ? 0.03 : 5e-5;
  }

  // y of rows x, as the card gives it, against the sums in fp64.
  void ExpectProduct(ProductArgs args,
                     const std::vector<float>& x,
                     double error_max) {
    const auto [tokens, inputs, outputs] = shape();
    Numbers weight(number(),
                   Random(static_cast<size_t>(inputs) * outputs,
                          1,
                          1 / std::sqrt(static_cast<float>(inputs))));
    const std::vector<float> before = Random(padded() * outputs, 2);
    Numbers y(
        target() == ProductTarget::kRows ? number() : StateNumber::kFloat32,
        before);
    args.number = number();
    args.tokens = tokens;
    args.inputs = inputs;
    args.outputs = outputs;
    args.weight = weight.data();
    args.target = target();
    args.y = y.data();
    args.y_stride = outputs;
    auto products = Products::Create(number());
    ASSERT_TRUE(products.ok()) << products.status();

    ASSERT_TRUE((*products)->Multiply(args, nullptr).ok());
    const std::vector<float> actual = y.Get();

    for (int64_t t = 0; t < tokens; ++t) {
      for (int32_t o = 0; o < outputs; ++o) {
        double sum =
            target() == ProductTarget::kAdd ? before[t * outputs + o] : 0.0;
        for (int32_t i = 0; i < inputs; ++i) {
          sum += double{x[t * inputs + i]} *
                 weight.values()[static_cast<size_t>(o) * inputs + i];
        }
        ASSERT_NEAR(actual[t * outputs + o], sum, error_max)
            << "token " << t << ", output " << o;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(
    Shapes,
    ProductsTest,
    testing::Combine(testing::Values(StateNumber::kFloat32,
                                     StateNumber::kBfloat16),
                     testing::Values(ProductTarget::kRows,
                                     ProductTarget::kFloat,
                                     ProductTarget::kAdd),
                     testing::Values(Shape{1, 64, 1},
                                     Shape{1, 256, 515},
                                     Shape{2, 2056, 96},
                                     Shape{3, 1024, 259},
                                     Shape{4, 5632, 64},
                                     Shape{5, 256, 515},
                                     Shape{70, 512, 304})));

TEST_P(ProductsTest, OfRows) {
  const auto [tokens, inputs, outputs] = shape();
  Numbers x(number(), Random(padded() * inputs, 3));
  ProductArgs args;
  args.x = x.data();
  args.x_stride = inputs;
  ExpectProduct(args, x.values(), tolerance());
}

TEST_P(ProductsTest, OfTheNormOfRows) {
  const auto [tokens, inputs, outputs] = shape();
  Numbers residual(StateNumber::kFloat32, Random(padded() * inputs, 4, 3));
  DeviceArray<float> weight(Random(static_cast<size_t>(inputs), 5));
  const std::vector<float> weights = weight.Get();
  ProductArgs args;
  args.source = ProductSource::kNorm;
  args.x = residual.data();
  args.x_stride = inputs;
  args.norm = {.width = inputs, .weight = weight.data(), .eps = 1e-6F};
  args.tokens = tokens;
  args.inputs = inputs;
  args.outputs = outputs;
  args.number = number();
  std::vector<float> expected(residual.values().size());
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int32_t i = 0; i < inputs; ++i) {
      const double r = residual.values()[t * inputs + i];
      squares += r * r;
    }
    const double scale = 1 / std::sqrt(squares / inputs + 1e-6);
    for (int32_t i = 0; i < inputs; ++i) {
      expected[t * inputs + i] = static_cast<float>(
          residual.values()[t * inputs + i] * scale * weights[i]);
    }
  }
  Numbers rows(number(), std::vector<float>(expected.size()));
  ASSERT_EQ(engine::NormRows(args.norm,
                             static_cast<float*>(residual.data()),
                             tokens,
                             number(),
                             rows.data(),
                             nullptr),
            cudaSuccess);
  const std::vector<float> normed = rows.Get();
  const float share = number() == StateNumber::kFloat32 ? 1e-5F : 5e-3F;
  for (int64_t i = 0; i < tokens * inputs; ++i) {
    ASSERT_NEAR(normed[i], expected[i], share * (std::fabs(expected[i]) + 1e-3))
        << i;
  }
  if (engine::IsSmallProduct(args)) {
    ExpectProduct(args, normed, scaled_tolerance());
  }
}

TEST_P(ProductsTest, OfTheGateOfRows) {
  const auto [tokens, inputs, outputs] = shape();
  Numbers gate_up(number(), Random(padded() * 2 * inputs, 6));
  Numbers rows(number(), std::vector<float>(padded() * inputs));
  ASSERT_EQ(engine::SiluMultiplyRows(
                gate_up.data(), tokens, inputs, number(), rows.data(), nullptr),
            cudaSuccess);
  const std::vector<float> gated = rows.Get();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t i = 0; i < inputs; ++i) {
      const double g = gate_up.values()[t * 2 * inputs + i];
      const double up = gate_up.values()[t * 2 * inputs + inputs + i];
      const double expected = g / (1 + std::exp(-g)) * up;
      ASSERT_NEAR(
          gated[t * inputs + i], expected, 5e-3 * std::fabs(expected) + 1e-6);
    }
  }
}

TEST_P(ProductsTest, WithTheGateBehindThem) {
  const auto [tokens, inputs, half] = shape();
  if (tokens > engine::kSmallProductTokensMax) return;
  Numbers x(number(), Random(padded() * inputs, 10));
  Numbers weight(number(),
                 Random(size_t{2} * inputs * half,
                        11,
                        1 / std::sqrt(static_cast<float>(inputs))));
  Numbers y(number(), std::vector<float>(static_cast<size_t>(tokens) * half));
  const ProductArgs args = {.number = number(),
                            .tokens = tokens,
                            .inputs = inputs,
                            .outputs = 2 * half,
                            .weight = weight.data(),
                            .x = x.data(),
                            .x_stride = inputs,
                            .target = ProductTarget::kSilu,
                            .y = y.data(),
                            .y_stride = half};
  ASSERT_EQ(engine::SmallProduct(args, nullptr), cudaSuccess);
  const std::vector<float> actual = y.Get();
  const auto product = [&, inputs = inputs](int64_t t, int64_t o) {
    double sum = 0;
    for (int32_t i = 0; i < inputs; ++i) {
      sum +=
          double{x.values()[t * inputs + i]} * weight.values()[o * inputs + i];
    }
    return sum;
  };
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t o = 0; o < half; ++o) {
      const double gate = product(t, o);
      const double expected =
          gate / (1 + std::exp(-gate)) * product(t, half + o);
      ASSERT_NEAR(actual[t * half + o],
                  expected,
                  number() == StateNumber::kBfloat16
                      ? 5e-3 * std::fabs(expected) + 1e-4
                      : 5e-5)
          << "token " << t << ", output " << o;
    }
  }
}

class OutputsTest : public testing::TestWithParam<StateNumber> {};

INSTANTIATE_TEST_SUITE_P(Numbers,
                         OutputsTest,
                         testing::Values(StateNumber::kFloat32,
                                         StateNumber::kBfloat16));

TEST_P(OutputsTest, AreKeptAndGatheredAndWhatIsNotFiniteIsSaid) {
  constexpr int32_t kHidden = 72;
  constexpr int64_t kStride = 80;
  std::vector<float> outputs = Random(size_t{5} * kHidden, 7);
  outputs[3 * kHidden + 71] = std::numeric_limits<float>::quiet_NaN();
  Numbers from(GetParam(), outputs);
  Numbers slots(GetParam(), Random(size_t{4} * kStride, 8));
  const OutputRows rows = {.hidden = kHidden,
                           .number = GetParam(),
                           .slots = slots.data(),
                           .slot_stride = kStride};
  DeviceArray<int32_t> slot_of(std::vector<int32_t>{2, -1, 0});
  DeviceArray<int32_t> last(std::vector<int32_t>{4, 0, 3});
  DeviceArray<int32_t> plan_rows(std::vector<int32_t>{1, 0, 2});
  DeviceArray<uint32_t> unfit(std::vector<uint32_t>{0, 0, 0});

  ASSERT_EQ(KeepOutputs({.rows_of_slots = rows,
                         .rows = 3,
                         .slots = slot_of.data(),
                         .last = last.data(),
                         .plan_rows = plan_rows.data(),
                         .outputs = from.data(),
                         .unfit = unfit.data()},
                        nullptr),
            cudaSuccess);

  EXPECT_THAT(unfit.Get(), testing::ElementsAre(0, 0, 1));
  const std::vector<float> kept = slots.Get();
  for (int64_t i = 0; i < 4 * kStride; ++i) {
    const int64_t slot = i / kStride;
    const int64_t column = i % kStride;
    if (slot == 2 && column < kHidden) {
      EXPECT_EQ(kept[i], from.values()[4 * kHidden + column]);
    } else if (slot != 0 || column >= kHidden) {
      EXPECT_EQ(kept[i], slots.values()[i]);
    }
  }

  DeviceArray<int32_t> sources(std::vector<int32_t>{1, -4, -1});
  Numbers gathered(GetParam(), Random(size_t{3} * kHidden, 9));
  ASSERT_EQ(GatherOutputs({.rows_of_slots = rows,
                           .count = 3,
                           .sources = sources.data(),
                           .outputs = from.data(),
                           .out = gathered.data()},
                          nullptr),
            cudaSuccess);
  const std::vector<float> out = gathered.Get();
  for (int32_t i = 0; i < kHidden; ++i) {
    EXPECT_EQ(out[i], from.values()[kHidden + i]);
    EXPECT_EQ(out[kHidden + i], from.values()[4 * kHidden + i]);
    EXPECT_EQ(out[2 * kHidden + i], 0);
  }
}

}  // namespace
}  // namespace weir::gpu
