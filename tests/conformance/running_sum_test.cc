// SPDX-License-Identifier: Apache-2.0
//
// What sums over all tokens must do, on every target: their own and those of a
// state that keeps what it rounds away.
#include "engine/kernels/running_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

constexpr float kMark = -7.5e30F;
constexpr int32_t kHeads = 2;

struct SumCase {
  SumCase(int32_t dim_in,
          const std::vector<int32_t>& row_tokens,
          bool decays,
          bool dots)
      : dim(dim_in) {
    for (const int32_t count : row_tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    std::mt19937 random(20261124);
    std::normal_distribution<float> normal;
    const size_t tokens = static_cast<size_t>(row_starts.back());
    const size_t width = kHeads * static_cast<size_t>(dim);
    x.resize(tokens * width);
    for (float& value : x) value = 1 + normal(random);
    if (decays) {
      log2_decay.resize(tokens * kHeads);
      // Mostly none, as that of a maximum; at times nearly all.
      for (float& value : log2_decay) {
        value = random() % 4 > 0 ? 0 : -std::exp(4 * normal(random));
      }
    }
    if (dots) {
      q.resize(x.size());
      for (float& value : q) value = 1 + normal(random);
    }
    out.assign(tokens * (dots ? kHeads : width), kMark);
    state.assign(slots.size() * width * 2, 0);
    for (size_t i = 0; i < state.size(); ++i) {
      const bool low = i / static_cast<size_t>(dim) % 2 == 1;
      state[i] = low ? 1e-8F * normal(random) : normal(random);
    }
  }

  RunningSumArgs Args() {
    const int64_t width = int64_t{kHeads} * dim;
    return {.rows = static_cast<int32_t>(slots.size()),
            .heads = kHeads,
            .dim = dim,
            .row_starts = row_starts.data(),
            .slots = slots.data(),
            .x = {x.data(), width},
            .log2_decay = {log2_decay.empty() ? nullptr : log2_decay.data(),
                           kHeads},
            .q = {q.empty() ? nullptr : q.data(), width},
            .eps = 0.25F,
            .out = out.data(),
            .out_stride = q.empty() ? width : kHeads,
            .state = state.data(),
            .state_stride = 2 * width};
  }

  int32_t dim;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<float> x, log2_decay, q, out, state;
};

double RelativeRmse(const std::vector<float>& got,
                    const std::vector<float>& want) {
  double error = 0;
  double square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    square += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / square);
}

class RunningSumTest : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override { ASSERT_TRUE(ForceKernelTarget(GetParam())); }
  void TearDown() override { ForceKernelTarget(""); }
};

TEST_P(RunningSumTest, IsItsDefinition) {
  for (const int32_t dim : {1, 7, 16, 33, 64}) {
    for (const bool decays : {false, true}) {
      for (const bool dots : {false, true}) {
        SCOPED_TRACE(testing::Message() << dim << decays << dots);
        SumCase got(dim, {1, 0, 50}, decays, dots);
        SumCase want = got;

        RunningSum(got.Args(), 0, 3);
        RunningSum(got.Args(), 3, 6);

        RunningSumReference(want.Args());
        EXPECT_LE(RelativeRmse(got.out, want.out), 1e-6);
        EXPECT_LE(RelativeRmse(got.state, want.state), 1e-6);
      }
    }
  }
}

TEST_P(RunningSumTest, PaddingIsLeftAlone) {
  SumCase rows(20, {3, 4, 5}, true, true);
  rows.slots[1] = -1;
  const auto before = rows.state;

  RunningSum(rows.Args(), 0, 6);

  EXPECT_EQ(rows.out[3 * kHeads], kMark);
  EXPECT_EQ(rows.out[7 * kHeads - 1], kMark);
  EXPECT_NE(rows.out[7 * kHeads], kMark);
  for (size_t i = 80; i < 160; ++i) ASSERT_EQ(rows.state[i], before[i]);
  EXPECT_NE(rows.state[160], before[160]);
}

// In one float this is off by thousands: at 2^26 each 1.1 is rounded to 0 or 8.
TEST_P(RunningSumTest, CountsWithoutEnd) {
  std::vector<int32_t> row_starts = {0, 512};
  const int32_t slot = 0;
  const float x = 1.1F;
  std::vector<float> out(512);
  std::vector<float> state = {0x1p26F, 0};
  const RunningSumArgs args = {.rows = 1,
                               .heads = 1,
                               .dim = 1,
                               .row_starts = row_starts.data(),
                               .slots = &slot,
                               .x = {&x, 0},
                               .log2_decay = {},
                               .q = {},
                               .out = out.data(),
                               .out_stride = 1,
                               .state = state.data(),
                               .state_stride = 2};
  for (int pass = 0; pass < 200; ++pass) RunningSum(args, 0, 1);

  const double want = 0x1p26 + 512.0 * 200 * double{x};
  EXPECT_NEAR(double{state[0]} + state[1], want, 0.5);
}

// A recurrence whose state keeps a rest, and which is large already.
struct SummedCase {
  SummedCase(int32_t keys_in, int32_t values_in)
      : keys(keys_in), values(values_in) {
    std::mt19937 random(20261124);
    std::normal_distribution<float> normal;
    k.resize(static_cast<size_t>(keys));
    q.resize(k.size());
    v.resize(kHeads * static_cast<size_t>(values));
    for (std::vector<float>* x : {&k, &q, &v}) {
      for (float& value : *x) value = 1 + normal(random);
    }
    log2_decay.resize(static_cast<size_t>(kTokens) * kHeads, 0.0F);
    log2_decay[200] = -3;
    log2_decay[3001] = -0.01F;
    state.resize(v.size() * k.size(), 1e5F);
    rest.resize(state.size(), 1e-4F);
    out.resize(v.size() * kTokens);
  }

  // Tokens [from, to), the same over and over.
  RecurrenceArgs Args(int32_t from, int32_t to) {
    row_starts = {from, to};
    const auto floats = static_cast<int64_t>(state.size());
    return {.rows = 1,
            .heads = kHeads,
            .key_heads = 1,
            .key_dim = keys,
            .value_dim = values,
            .row_starts = row_starts.data(),
            .slots = &slot,
            .q = {q.data(), 0},
            .k = {k.data(), 0},
            .v = {v.data(), 0},
            .log2_decay = {log2_decay.data(), kHeads},
            .out = out.data(),
            .out_stride = int64_t{kHeads} * values,
            .state = state.data(),
            .state_stride = floats,
            .rest = rest.data(),
            .rest_stride = floats};
  }
  // In pieces of so many tokens, in turn; those of 64 and more in chunks.
  void Run(const std::vector<int32_t>& pieces) {
    int32_t at = 0;
    for (size_t i = 0; at < kTokens; i = (i + 1) % pieces.size()) {
      const int32_t to = std::min(kTokens, at + pieces[i]);
      if (pieces[i] < kChunkTokensMin) {
        RecurrenceRecurrent(Args(at, to), 0, kHeads);
      } else {
        RecurrenceChunk(Args(at, to), 0, kHeads);
      }
      at = to;
    }
  }

  static constexpr int32_t kTokens = 3000;
  const int32_t keys;
  const int32_t values;
  const int32_t slot = 0;
  std::vector<int32_t> row_starts;
  std::vector<float> k, q, v, log2_decay, state, rest, out;
};

TEST_P(RunningSumTest, ARecurrenceKeepsItsRest) {
  for (const std::pair<int32_t, int32_t>& shape :
       {std::pair{5, 3}, std::pair{16, 17}, std::pair{64, 64}}) {
    SCOPED_TRACE(shape.first);
    SummedCase want(shape.first, shape.second);
    RecurrenceReference(want.Args(0, SummedCase::kTokens));

    SummedCase recurrent(shape.first, shape.second);
    recurrent.Run({1, 31, 40});
    // From one form to the other and back.
    SummedCase mixed(shape.first, shape.second);
    mixed.Run({20, 200});

    EXPECT_LE(RelativeRmse(recurrent.out, want.out), 5e-7);
    EXPECT_LE(RelativeRmse(mixed.out, want.out), 1e-6);
    EXPECT_LE(RelativeRmse(recurrent.state, want.state), 1e-7);
    // Without the rest this is 1: it is what the state could not hold.
    EXPECT_LE(RelativeRmse(recurrent.rest, want.rest), 0.5);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets,
                         RunningSumTest,
                         testing::ValuesIn(KernelTargets()),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace weir::engine
