// SPDX-License-Identifier: Apache-2.0
//
// What stands around the chunk form in Gated DeltaNet's mixer, against the
// CPU's kernels and, with the chunk form, against the formulas in fp64.
#include "engine/kernels/cuda/gated_delta_prefill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/kernels/cuda/chunk.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/short_conv.h"
#include "tests/conformance/recurrence_case.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/device_recurrence.h"
#include "tests/gpu/gated_delta_case.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::GatedDeltaFinishArgs;
using engine::GatedDeltaPrepareArgs;
using engine::GateKind;
using engine::RelativeRmse;
using engine::StateNumber;

constexpr StateNumber kBf16 = StateNumber::kBfloat16;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Which a bf16 holds exactly.
constexpr float kMark = -0x1.8p102F;
constexpr float kHeadNormEps = 1e-6F;
constexpr float kNormEps = 1e-5F;

std::vector<uint16_t> Bfloat16s(const std::vector<float>& x) {
  std::vector<uint16_t> bits(x.size());
  std::ranges::transform(x, bits.begin(), ToBfloat16);
  return bits;
}

// An array of `number` on the device.
class Numbers {
 public:
  Numbers(StateNumber number, const std::vector<float>& x)
      : is_float_(number == StateNumber::kFloat32),
        floats_(std::span<const float>(is_float_ ? x : std::vector<float>())),
        bits_(std::span<const uint16_t>(is_float_ ? std::vector<uint16_t>()
                                                  : Bfloat16s(x))) {}
  void* data() {
    return is_float_ ? static_cast<void*>(floats_.data()) : bits_.data();
  }
  std::vector<float> Get() const {
    if (is_float_) return floats_.Get();
    const std::vector<uint16_t> bits = bits_.Get();
    std::vector<float> x(bits.size());
    std::ranges::transform(bits, x.begin(), FromBfloat16);
    return x;
  }

 private:
  bool is_float_;
  DeviceArray<float> floats_;
  DeviceArray<uint16_t> bits_;
};

std::vector<float> Random(std::mt19937& random,
                          int64_t count,
                          float mean,
                          float deviation,
                          StateNumber number = StateNumber::kFloat32) {
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& y : x) y = mean + deviation * normal(random);
  if (number == kBf16) {
    for (float& y : x) y = FromBfloat16(ToBfloat16(y));
  }
  return x;
}

// -exp(a_log) log2(e)
std::vector<float> Log2Rates(const std::vector<float>& a_log) {
  std::vector<float> rates;
  for (const float a : a_log) {
    rates.push_back(static_cast<float>(-std::exp(double{a}) / std::log(2.0)));
  }
  return rates;
}

struct PrefillShape {
  int32_t heads = 4;
  int32_t key_heads = 2;
  int32_t key_dim = 128;
  int32_t value_dim = 128;
  int32_t conv_width = 4;
  StateNumber number = StateNumber::kFloat32;
  bool bias = false;
  float beta_scale = 1;
  int32_t gap = 8;  // columns behind those that are read
};

// A ragged batch's inputs, and what Prepare makes of them.
struct PrefillCase {
  // Row r has row_tokens[r] tokens and slot r, which has consumed r + 2 tokens.
  PrefillCase(const PrefillShape& shape_in,
              const std::vector<int32_t>& row_tokens,
              uint32_t seed)
      : shape(shape_in) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      consumed.push_back(static_cast<uint32_t>(slots.size()) + 1);
      row_starts.push_back(row_starts.back() + count);
    }
    slot_count = static_cast<int32_t>(slots.size());
    std::mt19937 random(seed);
    projected = Random(random, tokens() * columns(), 0, 1, shape.number);
    window = Random(random, slot_count * window_numbers(), 0, 1, shape.number);
    conv_weight = Random(random, window_numbers(), 0, 0.5F);
    if (shape.bias) conv_bias = Random(random, mixed(), 0, 0.3F);
    a_log = Random(random, shape.heads, 0, 1);
    dt_bias = Random(random, shape.heads, -2, 1);
    Clear();
  }
  void Clear() {
    out.assign(tokens() * out_stride(), kMark);
    log2_decay.assign(tokens() * shape.heads, kMark);
    beta.assign(tokens() * shape.heads, kMark);
  }

  int64_t tokens() const { return row_starts.back(); }
  int64_t keys() const { return int64_t{shape.key_heads} * shape.key_dim; }
  int64_t values() const { return int64_t{shape.heads} * shape.value_dim; }
  int64_t mixed() const { return 2 * keys() + values(); }
  int64_t a_column() const { return mixed() + 3; }
  int64_t b_column() const { return a_column() + shape.heads; }
  int64_t columns() const { return mixed() + 2 * shape.heads + shape.gap; }
  int64_t out_stride() const { return mixed() + 16; }
  int64_t window_numbers() const { return shape.conv_width * mixed(); }

  void RunOnDevice();
  void RunOnHost();

  PrefillShape shape;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<uint32_t> consumed;  // by row
  int32_t slot_count;
  int64_t tokens_beyond = 0;  // how many more the host says there are
  std::vector<float> projected, conv_weight, conv_bias, a_log, dt_bias;
  std::vector<float> window;
  std::vector<float> out, log2_decay, beta;  // of each token, out with gaps
};

void PrefillCase::RunOnDevice() {
  DeviceArray<int32_t> starts{std::span<const int32_t>(row_starts)};
  DeviceArray<int32_t> row_slots{std::span<const int32_t>(slots)};
  DeviceArray<uint32_t> before{std::span<const uint32_t>(consumed)};
  Numbers x(shape.number, projected);
  Numbers held(shape.number, window);
  Numbers result(shape.number, out);
  DeviceArray<float> weight{std::span<const float>(conv_weight)};
  DeviceArray<float> bias{std::span<const float>(conv_bias)};
  DeviceArray<float> rates{std::span<const float>(Log2Rates(a_log))};
  DeviceArray<float> steps{std::span<const float>(dt_bias)};
  DeviceArray<float> decays{std::span<const float>(log2_decay)};
  DeviceArray<float> betas{std::span<const float>(beta)};
  GatedDeltaPrepareArgs args;
  args.rows = static_cast<int32_t>(slots.size());
  args.tokens = tokens() + tokens_beyond;
  args.heads = shape.heads;
  args.key_heads = shape.key_heads;
  args.key_dim = shape.key_dim;
  args.value_dim = shape.value_dim;
  args.conv_width = shape.conv_width;
  args.row_starts = starts.data();
  args.slots = row_slots.data();
  args.consumed = before.data();
  args.number = shape.number;
  args.projected = x.data();
  args.projected_stride = columns();
  args.a_column = a_column();
  args.b_column = b_column();
  args.conv_weight = weight.data();
  args.conv_bias = shape.bias ? bias.data() : nullptr;
  args.log2_rate = rates.data();
  args.dt_bias = steps.data();
  args.beta_scale = shape.beta_scale;
  args.window = held.data();
  args.window_stride = window_numbers();
  args.mixed = result.data();
  args.mixed_stride = out_stride();
  args.log2_decay = decays.data();
  args.beta = betas.data();
  ASSERT_EQ(engine::PrepareGatedDelta(args, nullptr), cudaSuccess);
  Must(cudaDeviceSynchronize(), "preparation");
  out = result.Get();
  window = held.Get();
  log2_decay = decays.Get();
  beta = betas.Get();
}

void PrefillCase::RunOnHost() {
  const int64_t width = shape.conv_width;
  // The CPU's window: the oldest first, its weights by tap.
  std::vector<float> past(slot_count * (width - 1) * mixed());
  std::vector<float> taps(width * mixed());
  for (int64_t c = 0; c < mixed(); ++c) {
    for (int64_t tap = 0; tap < width; ++tap) {
      taps[tap * mixed() + c] = conv_weight[c * width + tap];
    }
  }
  for (size_t row = 0; row < slots.size(); ++row) {
    const int64_t slot = slots[row];
    if (slot < 0) continue;
    float* held = window.data() + slot * window_numbers();
    for (int64_t back = 1; back < width; ++back) {
      if (consumed[row] < back) continue;
      std::copy_n(held + (consumed[row] - back) % width * mixed(),
                  mixed(),
                  past.data() + ((slot + 1) * (width - 1) - back) * mixed());
    }
    for (int64_t t = row_starts[row]; t < row_starts[row + 1]; ++t) {
      const int64_t n = consumed[row] + t - row_starts[row];
      std::copy_n(projected.data() + t * columns(),
                  mixed(),
                  held + n % width * mixed());
    }
    const auto begin = row_starts[row];
    const auto end = row_starts[row + 1];
    engine::DeltaGates({.heads = shape.heads,
                        .a = {projected.data() + a_column(), columns()},
                        .b = {projected.data() + b_column(), columns()},
                        .a_log = a_log.data(),
                        .dt_bias = dt_bias.data(),
                        .beta_scale = shape.beta_scale,
                        .log2_decay = log2_decay.data(),
                        .beta = beta.data()},
                       begin,
                       end);
  }
  engine::ShortConvArgs conv;
  conv.rows = static_cast<int32_t>(slots.size());
  conv.channels = static_cast<int32_t>(mixed());
  conv.width = shape.conv_width;
  conv.row_starts = row_starts.data();
  conv.slots = slots.data();
  conv.x = {projected.data(), columns()};
  conv.weight = taps.data();
  conv.bias = shape.bias ? conv_bias.data() : nullptr;
  conv.out = out.data();
  conv.out_stride = out_stride();
  conv.state = past.data();
  conv.state_stride = (width - 1) * mixed();
  engine::ShortConv(conv, 0, conv.rows * engine::ChannelBlocks(conv.channels));
  for (size_t row = 0; row < slots.size(); ++row) {
    if (slots[row] < 0) continue;
    for (const bool is_query : {true, false}) {
      const double scale = is_query ? 1 / std::sqrt(double(shape.key_dim)) : 1;
      engine::NormalizeHeads({.heads = shape.key_heads,
                              .dim = shape.key_dim,
                              .x = out.data() + (is_query ? 0 : keys()),
                              .stride = out_stride(),
                              .eps = kHeadNormEps,
                              .scale = static_cast<float>(scale)},
                             row_starts[row],
                             row_starts[row + 1]);
    }
  }
}

class GatedDeltaPrepareTest : public testing::TestWithParam<PrefillShape> {
 protected:
  PrefillCase Case(const std::vector<int32_t>& row_tokens) const {
    return PrefillCase(GetParam(), row_tokens, 20240612);
  }
  // A bf16 is rounded once, to 8 bits.
  double RmseMax() const { return GetParam().number == kBf16 ? 3e-3 : 1e-5; }

  void ExpectEqualsHost(const PrefillCase& start) {
    PrefillCase got = start;
    PrefillCase want = start;
    got.RunOnDevice();
    want.RunOnHost();
    EXPECT_LE(RelativeRmse(got.out, want.out), RmseMax());
    for (int64_t t = 0; t < start.tokens(); ++t) {
      SCOPED_TRACE(testing::Message() << "token " << t);
      const auto part = [&](const PrefillCase& of, int64_t from, int64_t to) {
        const auto row = of.out.begin() + t * of.out_stride();
        return std::vector<float>(row + from, row + to);
      };
      const int64_t mixed = start.mixed();
      const int64_t keys = start.keys();
      const int64_t edges[] = {0, keys, 2 * keys, mixed};
      for (int i = 0; i < 3; ++i) {
        ASSERT_LE(RelativeRmse(part(got, edges[i], edges[i + 1]),
                               part(want, edges[i], edges[i + 1])),
                  RmseMax());
      }
      EXPECT_EQ(part(got, mixed, start.out_stride()),
                part(start, mixed, start.out_stride()));
    }
    EXPECT_LE(RelativeRmse(got.log2_decay, want.log2_decay), 1e-5);
    EXPECT_LE(RelativeRmse(got.beta, want.beta), 1e-5);
    EXPECT_TRUE(BitEqual(got.window, want.window));
  }
};

TEST_P(GatedDeltaPrepareTest, EqualsTheHostOverOneLongRow) {
  for (const int32_t count : {1, 2, 3, 8, 9, 131})
    ExpectEqualsHost(Case({count}));
}

TEST_P(GatedDeltaPrepareTest, EqualsTheHostOverARaggedBatch) {
  PrefillCase start = Case({1, 0, 5, 70, 2, 3, 0, 1, 40});
  start.slots = {3, 6, -1, 0, 1, 8, 4, -1, 5};
  start.tokens_beyond = 100;
  ExpectEqualsHost(start);
}

TEST_P(GatedDeltaPrepareTest, EqualsTheHostOverManyShortRows) {
  PrefillCase start = Case(std::vector<int32_t>(200, 3));
  std::ranges::shuffle(start.slots, std::mt19937(3));
  ExpectEqualsHost(start);
}

TEST_P(GatedDeltaPrepareTest, AnySplitGivesTheSameBits) {
  constexpr int32_t kTokens = 21;
  const PrefillCase start = Case({kTokens});
  PrefillCase whole = start;
  whole.RunOnDevice();
  for (int32_t cut = 1; cut < kTokens; ++cut) {
    std::vector<float> out, log2_decay, beta;
    std::vector<float> window = start.window;
    for (const auto& [from, to] :
         {std::pair{0, cut}, std::pair{cut, kTokens}}) {
      PrefillCase part = start;
      part.row_starts = {0, to - from};
      part.consumed[0] += static_cast<uint32_t>(from);
      part.projected.assign(start.projected.begin() + from * start.columns(),
                            start.projected.begin() + to * start.columns());
      part.window = window;
      part.Clear();
      part.RunOnDevice();
      out.insert(out.end(), part.out.begin(), part.out.end());
      log2_decay.insert(
          log2_decay.end(), part.log2_decay.begin(), part.log2_decay.end());
      beta.insert(beta.end(), part.beta.begin(), part.beta.end());
      window = part.window;
    }
    ASSERT_TRUE(BitEqual(out, whole.out)) << cut;
    ASSERT_TRUE(BitEqual(log2_decay, whole.log2_decay)) << cut;
    ASSERT_TRUE(BitEqual(beta, whole.beta)) << cut;
    ASSERT_TRUE(BitEqual(window, whole.window)) << cut;
  }
}

TEST_P(GatedDeltaPrepareTest, NeighboursDoNotMatter) {
  PrefillCase together = Case({33, 1, 18, 50});
  PrefillCase alone = together;
  alone.row_starts = {0, 18};
  alone.slots = {2};
  alone.consumed = {together.consumed[2]};
  alone.projected.assign(together.projected.begin() + 34 * together.columns(),
                         together.projected.begin() + 52 * together.columns());
  alone.Clear();
  together.RunOnDevice();
  alone.RunOnDevice();
  const auto of_row = together.out.begin() + 34 * together.out_stride();
  EXPECT_TRUE(BitEqual(
      alone.out,
      std::vector<float>(of_row, of_row + 18 * together.out_stride())));
  EXPECT_TRUE(BitEqual({alone.window.begin() + 2 * alone.window_numbers(),
                        alone.window.begin() + 3 * alone.window_numbers()},
                       {together.window.begin() + 2 * alone.window_numbers(),
                        together.window.begin() + 3 * alone.window_numbers()}));
}

TEST_P(GatedDeltaPrepareTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  for (const uint32_t before : {0U, 1U}) {
    for (const int32_t count : {1, 2, 30}) {
      PrefillCase fresh = Case({count});
      fresh.consumed = {before};
      PrefillCase zero = fresh;
      // All but token 0's inputs.
      std::fill(fresh.window.begin() + before * fresh.mixed(),
                fresh.window.end(),
                kNan);
      fresh.RunOnDevice();
      zero.RunOnHost();
      EXPECT_LE(RelativeRmse(fresh.out, zero.out), RmseMax());
    }
  }
}

TEST_P(GatedDeltaPrepareTest, ANanStaysInItsRowAndReachesWidthTokens) {
  PrefillCase clean = Case({12, 12});
  PrefillCase marked = clean;
  marked.projected[5 * marked.columns() + marked.mixed() - 1] = kNan;
  clean.RunOnDevice();
  marked.RunOnDevice();
  const int64_t last = marked.mixed() - 1;
  for (int64_t t = 0; t < 24; ++t) {
    const bool is_reached = t >= 5 && t < 5 + marked.shape.conv_width;
    EXPECT_EQ(std::isnan(marked.out[t * marked.out_stride() + last]),
              is_reached)
        << t;
  }
  EXPECT_TRUE(BitEqual(
      {marked.out.begin() + 12 * marked.out_stride(), marked.out.end()},
      {clean.out.begin() + 12 * clean.out_stride(), clean.out.end()}));
}

const PrefillShape kShapes[] = {
    {},
    {.number = kBf16},
    {.heads = 6,
     .key_heads = 6,
     .key_dim = 256,
     .value_dim = 512,
     .number = kBf16,
     .gap = 4},
    {.heads = 2, .key_heads = 1, .key_dim = 64, .value_dim = 64, .bias = true},
    {.heads = 3,
     .key_heads = 3,
     .key_dim = 64,
     .value_dim = 200,
     .conv_width = 2,
     .beta_scale = 2,
     .gap = 5},
    {.heads = 4,
     .key_heads = 4,
     .key_dim = 256,
     .value_dim = 256,
     .conv_width = 7,
     .number = kBf16,
     .bias = true,
     .gap = 5},
};

INSTANTIATE_TEST_SUITE_P(Shapes,
                         GatedDeltaPrepareTest,
                         testing::ValuesIn(kShapes),
                         [](const testing::TestParamInfo<PrefillShape>& param) {
                           const PrefillShape& shape = param.param;
                           return std::to_string(shape.heads) + "_" +
                                  std::to_string(shape.key_dim) + "x" +
                                  std::to_string(shape.value_dim) + "_" +
                                  std::to_string(shape.conv_width) +
                                  (shape.number == kBf16 ? "_bf16" : "_fp32");
                         });

TEST(GatedDeltaPrefillTest, TilesOfEachSizeEqualTheHost) {
  for (const int32_t count : {20'000, 40'000}) {
    PrefillCase got(
        {.heads = 1, .key_heads = 1, .key_dim = 64, .value_dim = 64},
        {77, count},
        9);
    PrefillCase want = got;
    got.RunOnDevice();
    want.RunOnHost();
    EXPECT_LE(RelativeRmse(got.out, want.out), 1e-5);
    EXPECT_TRUE(BitEqual(got.window, want.window));
  }
}

struct FinishCase {
  int32_t heads;
  int32_t value_dim;
  GateKind gate;
  StateNumber number;
  int64_t gap;
};

std::vector<float> Finished(const GatedDeltaFinishArgs& args,
                            const Numbers& out) {
  EXPECT_EQ(engine::FinishGatedDelta(args, nullptr), cudaSuccess);
  Must(cudaDeviceSynchronize(), "finish");
  return out.Get();
}

void ExpectFinishEqualsHost(const FinishCase& shape, int64_t tokens) {
  std::mt19937 random(7);
  const int64_t values = int64_t{shape.heads} * shape.value_dim;
  const int64_t stride = values + 16;
  const int64_t z_stride = values + 8 + shape.gap;
  const std::vector<float> o =
      Random(random, tokens * stride, 0, 0.3F, shape.number);
  const std::vector<float> z =
      Random(random, tokens * z_stride, 0, 1, shape.number);
  const std::vector<float> weight = Random(random, shape.value_dim, 1, 0.2F);
  Numbers o_device(shape.number, o);
  Numbers z_device(shape.number, z);
  Numbers out(shape.number, std::vector<float>(tokens * stride, kMark));
  DeviceArray<float> norm{std::span<const float>(weight)};
  // The last two tokens are more than the rows have.
  const std::vector<int32_t> row_starts = {
      0, 3, static_cast<int32_t>(tokens) - 2};
  DeviceArray<int32_t> starts{std::span<const int32_t>(row_starts)};
  GatedDeltaFinishArgs args;
  args.tokens = tokens;
  args.rows = 2;
  args.row_starts = starts.data();
  args.heads = shape.heads;
  args.value_dim = shape.value_dim;
  args.number = shape.number;
  args.o = o_device.data();
  args.o_stride = stride;
  args.z = z_device.data();
  args.z_stride = z_stride;
  args.norm_weight = norm.data();
  args.norm_eps = kNormEps;
  args.gate = shape.gate;
  args.out = out.data();
  args.out_stride = stride;
  const std::vector<float> got = Finished(args, out);
  std::vector<float> want(tokens * values);
  engine::GatedNorm({.groups = shape.heads,
                     .width = shape.value_dim,
                     .x = {o.data(), stride},
                     .z = {z.data(), z_stride},
                     .weight = weight.data(),
                     .shared_weight = true,
                     .eps = kNormEps,
                     .gate = shape.gate,
                     .out = want.data()},
                    0,
                    tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto row = got.begin() + t * stride;
    const auto end = t < tokens - 2 ? row + values : row;
    for (auto gap = end; gap < row + stride; ++gap) ASSERT_EQ(*gap, kMark);
    if (end == row) continue;
    ASSERT_LE(RelativeRmse(
                  {row, end},
                  {want.begin() + t * values, want.begin() + (t + 1) * values}),
              shape.number == kBf16 ? 3e-3 : 1e-5)
        << "token " << t;
  }
  // In place, all of them.
  args.out = o_device.data();
  args.row_starts = nullptr;
  const std::vector<float> in_place = Finished(args, o_device);
  for (int64_t t = 0; t < tokens - 2; ++t) {
    EXPECT_TRUE(BitEqual(
        {in_place.begin() + t * stride, in_place.begin() + t * stride + values},
        {got.begin() + t * stride, got.begin() + t * stride + values}));
  }
}

TEST(GatedDeltaFinishTest, EqualsTheHost) {
  const FinishCase kCases[] = {
      {4, 128, GateKind::kSilu, StateNumber::kFloat32, 0},
      {32, 128, GateKind::kSilu, kBf16, 0},
      {6, 512, GateKind::kSilu, kBf16, 0},
      {3, 512, GateKind::kSigmoid, StateNumber::kFloat32, 0},
      {5, 64, GateKind::kSigmoid, kBf16, 2},
      {3, 200, GateKind::kNone, kBf16, 0},
      {2, 328, GateKind::kSilu, StateNumber::kFloat32, 1},
  };
  for (const FinishCase& shape : kCases) {
    SCOPED_TRACE(testing::Message() << shape.heads << " x " << shape.value_dim);
    for (const int64_t tokens : {5, 77, 700}) {
      ExpectFinishEqualsHost(shape, tokens);
    }
  }
}

TEST(GatedDeltaPrefillTest, RefusesWhatItDoesNotTake) {
  GatedDeltaPrepareArgs prepare;
  prepare.tokens = 1;
  prepare.rows = 1;
  EXPECT_EQ(engine::PrepareGatedDelta(prepare, nullptr), cudaErrorInvalidValue);
  prepare.heads = 3;
  prepare.key_heads = 2;
  prepare.key_dim = 128;
  prepare.value_dim = 64;
  prepare.conv_width = 4;
  EXPECT_EQ(engine::PrepareGatedDelta(prepare, nullptr), cudaErrorInvalidValue);
  GatedDeltaFinishArgs finish;
  finish.tokens = 1;
  finish.heads = 1;
  finish.value_dim = 520;
  EXPECT_EQ(engine::FinishGatedDelta(finish, nullptr), cudaErrorInvalidValue);
  finish.value_dim = 12;
  EXPECT_EQ(engine::FinishGatedDelta(finish, nullptr), cudaErrorInvalidValue);
}

// The case's arrays on the device, for Prepare, the chunk form and Finish in
// place of its fused decode.
class LayerArrays {
 public:
  explicit LayerArrays(const GatedDeltaCase& work)
      : starts_(std::span<const int32_t>(work.row_starts)),
        slots_(std::span<const int32_t>(work.slots)),
        consumed_(std::span<const uint32_t>(work.consumed)),
        projected_(kBf16, work.projected),
        window_(kBf16, work.window),
        mixed_(kBf16, std::vector<float>(work.tokens * work.mixed(), kMark)),
        o_(kBf16, work.out),
        conv_weight_(std::span<const float>(work.conv_weight)),
        rates_(std::span<const float>(Log2Rates(work.a_log))),
        steps_(std::span<const float>(work.dt_bias)),
        norm_(std::span<const float>(work.norm_weight)),
        state_(std::span<const float>(work.state)),
        decays_(work.tokens * work.shape.heads),
        betas_(work.tokens * work.shape.heads) {}

  void Run(GatedDeltaCase& work) {
    engine::ChunkArgs chunk = ChunkOf(work);
    DeviceArray<uint8_t> workspace(engine::ChunkWorkspaceBytes(chunk));
    chunk.workspace = workspace.data();
    ASSERT_EQ(engine::PrepareGatedDelta(PrepareOf(work), nullptr), cudaSuccess);
    ASSERT_EQ(engine::RecurrenceChunk(chunk, nullptr), cudaSuccess);
    ASSERT_EQ(engine::FinishGatedDelta(FinishOf(work), nullptr), cudaSuccess);
    Must(cudaDeviceSynchronize(), "a layer");
    work.out = o_.Get();
    work.window = window_.Get();
    work.state = state_.Get();
  }

 private:
  GatedDeltaPrepareArgs PrepareOf(const GatedDeltaCase& work) {
    const GatedDeltaShape& shape = work.shape;
    GatedDeltaPrepareArgs args;
    args.rows = static_cast<int32_t>(work.slots.size());
    args.tokens = work.tokens;
    args.heads = shape.heads;
    args.key_heads = shape.key_heads;
    args.key_dim = shape.key_dim;
    args.value_dim = shape.value_dim;
    args.conv_width = shape.conv_width;
    args.row_starts = starts_.data();
    args.slots = slots_.data();
    args.consumed = consumed_.data();
    args.projected = projected_.data();
    args.projected_stride = work.columns();
    args.a_column = work.mixed() + work.values();
    args.b_column = args.a_column + shape.heads;
    args.conv_weight = conv_weight_.data();
    args.log2_rate = rates_.data();
    args.dt_bias = steps_.data();
    args.window = window_.data();
    args.window_stride = work.window_numbers();
    args.mixed = mixed_.data();
    args.mixed_stride = work.mixed();
    args.log2_decay = decays_.data();
    args.beta = betas_.data();
    return args;
  }

  engine::ChunkArgs ChunkOf(const GatedDeltaCase& work) {
    const GatedDeltaShape& shape = work.shape;
    const auto* q = static_cast<const __nv_bfloat16*>(mixed_.data());
    engine::ChunkArgs args;
    args.rows = static_cast<int32_t>(work.slots.size());
    args.tokens = work.tokens;
    args.heads = shape.heads;
    args.key_heads = shape.key_heads;
    args.key_dim = shape.key_dim;
    args.value_dim = shape.value_dim;
    args.row_starts = starts_.data();
    args.slots = slots_.data();
    args.consumed = consumed_.data();
    args.q = {q, work.mixed()};
    args.k = {q + work.keys(), work.mixed()};
    args.v = {q + 2 * work.keys(), work.mixed()};
    args.log2_decay = {decays_.data(), shape.heads};
    args.beta = {betas_.data(), shape.heads};
    args.out = static_cast<__nv_bfloat16*>(o_.data());
    args.out_stride = work.values();
    args.state = state_.data();
    args.state_stride = work.state_numbers();
    return args;
  }

  GatedDeltaFinishArgs FinishOf(const GatedDeltaCase& work) {
    GatedDeltaFinishArgs args;
    args.tokens = work.tokens;
    args.heads = work.shape.heads;
    args.value_dim = work.shape.value_dim;
    args.o = o_.data();
    args.o_stride = work.values();
    args.z =
        static_cast<const __nv_bfloat16*>(projected_.data()) + work.mixed();
    args.z_stride = work.columns();
    args.norm_weight = norm_.data();
    args.norm_eps = kNormEps;
    args.gate = work.shape.gate;
    args.out = o_.data();
    args.out_stride = work.values();
    return args;
  }

  DeviceArray<int32_t> starts_;
  DeviceArray<int32_t> slots_;
  DeviceArray<uint32_t> consumed_;
  Numbers projected_;
  Numbers window_;
  Numbers mixed_;
  Numbers o_;
  DeviceArray<float> conv_weight_;
  DeviceArray<float> rates_;
  DeviceArray<float> steps_;
  DeviceArray<float> norm_;
  DeviceArray<float> state_;
  DeviceArray<float> decays_;
  DeviceArray<float> betas_;
};

TEST(GatedDeltaPrefillTest, WithTheChunkFormEqualsTheFormulas) {
  for (const GatedDeltaShape& shape :
       {GatedDeltaShape{.heads = 8, .key_heads = 4, .number = kBf16},
        GatedDeltaShape{.heads = 4,
        .key_heads = 4,
        .key_dim = 256,
        .value_dim = 512,
        .number = kBf16}}) {
    GatedDeltaCase got(shape, {200, 64, 1, 130}, 5);
    got.slots = {2, 0, 3, 1};
    got.consumed = {5, 0, 9, 2};
    GatedDeltaCase want = got;
    LayerArrays(got).Run(got);
    want.RunReference();
    EXPECT_LE(RelativeRmse(got.out, want.out), 1e-2);
    EXPECT_LE(RelativeRmse(got.state, want.state), 1e-2);
    EXPECT_TRUE(BitEqual(got.window, want.window));
  }
}

}  // namespace
}  // namespace weir::gpu
