// SPDX-License-Identifier: Apache-2.0
//
// What every mixer of the registry must do: both of its forms are the fp64
// recurrence fed the same fp32 values, and a stream may be cut anywhere.
#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "engine/mixers/registry.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

constexpr double kRecurrentRmseMax = 1e-6;
constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261124;

using Param = std::tuple<MixerRow, WeightDtype>;

class MixerTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    mixer_ = MixerCase::Make(std::get<0>(GetParam()), std::get<1>(GetParam()));
    ASSERT_NE(mixer_, nullptr);
  }

  std::vector<float> Tokens(int64_t count, uint32_t seed = kSeed) const {
    return RandomTokens(count, mixer_->hidden(), seed);
  }
  // A pool whose slots have each read three tokens of their own.
  std::unique_ptr<StatePool> WarmPool(int32_t slots) const {
    std::unique_ptr<StatePool> pool = mixer_->NewPool(slots);
    for (int32_t slot = 0; slot < slots; ++slot) {
      mixer_->Run(*pool,
                  {.tokens = {3}, .slots = {slot}},
                  Tokens(3, kSeed + 1 + static_cast<uint32_t>(slot)),
                  Form::kReference);
    }
    return pool;
  }

  std::unique_ptr<MixerCase> mixer_;
};

TEST_P(MixerTest, BothFormsAreTheFp64Recurrence) {
  PassRows rows;
  for (int32_t tokens = 0; tokens <= 130; ++tokens) {
    rows.tokens.push_back(tokens);
    rows.slots.push_back(130 - tokens);
  }
  const std::vector<float> x = Tokens(130 * 131 / 2);
  const std::unique_ptr<StatePool> want_pool = WarmPool(131);
  const std::vector<NamedValues> want =
      mixer_->Run(*want_pool, rows, x, Form::kReference);
  ExpectFinite(want);

  for (const Form form : {Form::kRecurrent, Form::kChunk}) {
    const double rmse_max =
        form == Form::kRecurrent ? kRecurrentRmseMax : kRmseMax;
    const std::unique_ptr<StatePool> pool = WarmPool(131);
    const std::vector<NamedValues> got = mixer_->Run(*pool, rows, x, form);

    {
      SCOPED_TRACE(FormName(form));
      ExpectNear(got, want, rmse_max);
    }
    int64_t end = 0;
    for (size_t row = 0; row < rows.tokens.size(); ++row) {
      SCOPED_TRACE(testing::Message() << FormName(form) << ", a row of "
                                      << rows.tokens[row] << " tokens");
      const int64_t begin = end;
      end += rows.tokens[row];
      // One token whose sums cancel is much of a short row.
      ExpectNear(TokensOf(got, mixer_->hidden(), begin, end),
                 TokensOf(want, mixer_->hidden(), begin, end),
                 kRmseMax);
      const int32_t slot = rows.slots[row];
      ExpectNear(mixer_->State(*pool, slot),
                 mixer_->State(*want_pool, slot),
                 rmse_max);
    }
  }
}

class MixerSplitTest : public MixerTest {
 protected:
  // Feeds x to slot 0 of a warm pool in pieces and compares with `want`.
  void ExpectSame(const std::vector<int32_t>& pieces,
                  const std::vector<float>& x,
                  const std::vector<NamedValues>& want,
                  const std::vector<NamedValues>& want_state) {
    const int32_t hidden = mixer_->hidden();
    const std::unique_ptr<StatePool> pool = WarmPool(1);
    std::vector<NamedValues> got = TokensOf(want, hidden, 0, 0);
    int64_t end = 0;
    for (const int32_t piece : pieces) {
      const int64_t begin = end;
      end += piece;
      if (piece == 0) continue;
      const std::vector<NamedValues> more =
          mixer_->Run(*pool,
                      {.tokens = {piece}, .slots = {0}},
                      std::span(x).subspan(static_cast<size_t>(begin * hidden),
                                           static_cast<size_t>(piece) * hidden),
                      Form::kByLength);
      for (size_t i = 0; i < got.size(); ++i) {
        got[i].values.insert(
            got[i].values.end(), more[i].values.begin(), more[i].values.end());
      }
    }
    ASSERT_EQ(end * hidden, static_cast<int64_t>(x.size()));
    ExpectNear(got, want, kRmseMax);
    ExpectNear(mixer_->State(*pool, 0), want_state, kRmseMax);
  }
};

TEST_P(MixerSplitTest, AStreamMayBeCutAtEveryToken) {
  constexpr int32_t kTokens = 131;
  const std::vector<float> x = Tokens(kTokens);
  const std::unique_ptr<StatePool> pool = WarmPool(1);
  const std::vector<NamedValues> want = mixer_->Run(
      *pool, {.tokens = {kTokens}, .slots = {0}}, x, Form::kByLength);
  const std::vector<NamedValues> want_state = mixer_->State(*pool, 0);

  for (int32_t at = 0; at <= kTokens; ++at) {
    SCOPED_TRACE(testing::Message() << "cut after " << at << " tokens");
    ExpectSame({at, kTokens - at}, x, want, want_state);
  }
  SCOPED_TRACE("cut after each token");
  ExpectSame(std::vector<int32_t>(kTokens, 1), x, want, want_state);
}

TEST_P(MixerSplitTest, AStreamMayBeCutAnywhereAndOften) {
  constexpr int32_t kTokens = 400;
  const std::vector<float> x = Tokens(kTokens);
  const std::unique_ptr<StatePool> pool = WarmPool(1);
  const std::vector<NamedValues> want = mixer_->Run(
      *pool, {.tokens = {kTokens}, .slots = {0}}, x, Form::kByLength);
  const std::vector<NamedValues> want_state = mixer_->State(*pool, 0);
  std::mt19937 random(kSeed);

  for (int trial = 0; trial < 5; ++trial) {
    std::vector<int32_t> pieces;
    int32_t left = kTokens;
    while (left > 0) {
      pieces.push_back(std::min<int32_t>(left, random() % 131));
      left -= pieces.back();
    }
    SCOPED_TRACE("pieces of " + testing::PrintToString(pieces));
    ExpectSame(pieces, x, want, want_state);
  }
}

TEST_P(MixerTest, ARowOfNoTokensLeavesItsStateToTheBit) {
  const std::unique_ptr<StatePool> pool = WarmPool(2);
  const std::vector<NamedValues> before = mixer_->State(*pool, 0);

  for (const Form form : {Form::kByLength, Form::kRecurrent, Form::kChunk}) {
    SCOPED_TRACE(FormName(form));
    mixer_->Run(*pool, {.tokens = {0, 2}, .slots = {0, 1}}, Tokens(2), form);
    ExpectBitEqual(mixer_->State(*pool, 0), before);
  }
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return CaseName(std::get<0>(info.param), std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(
    Mixers,
    MixerTest,
    testing::Combine(testing::ValuesIn(MixerRows()),
                     testing::Values(WeightDtype::kFloat32,
                                     WeightDtype::kBFloat16)),
    ParamName);

// What another dtype of the weights changes is not of a cut.
INSTANTIATE_TEST_SUITE_P(
    Mixers,
    MixerSplitTest,
    testing::Combine(testing::ValuesIn(MixerRows()),
                     testing::Values(WeightDtype::kFloat32)),
    ParamName);

TEST(MixerRowsTest, EveryFamilyOfTheRegistryHasARow) {
  std::set<std::string> served;
  for (const MixerRow& row : MixerRows()) {
    const auto mixer = MixerCase::Make(row, WeightDtype::kFloat32);
    ASSERT_NE(mixer, nullptr);
    served.insert(mixer->spec().family);
  }
  for (const Family& family : Families()) {
    EXPECT_THAT(served, testing::Contains(family.model_type));
  }
}

}  // namespace
}  // namespace weir::engine
