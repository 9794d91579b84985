// SPDX-License-Identifier: Apache-2.0
//
// What every mixer of the registry must leave alone: the rows beside a row, the
// slots that no row names, and every bit of a state that is saved.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261125;
constexpr Form kForms[] = {Form::kByLength, Form::kRecurrent, Form::kChunk};

using Param = std::tuple<MixerRow, WeightDtype>;

class MixerStateTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    mixer_ = MixerCase::Make(std::get<0>(GetParam()), std::get<1>(GetParam()));
    ASSERT_NE(mixer_, nullptr);
  }

  std::vector<float> Tokens(int64_t count, uint32_t seed = kSeed) const {
    return RandomTokens(count, mixer_->hidden(), seed);
  }
  std::vector<NamedValues> Feed(StatePool& pool,
                                int32_t slot,
                                std::span<const float> x,
                                Form form) const {
    const auto tokens =
        static_cast<int32_t>(x.size() / static_cast<size_t>(mixer_->hidden()));
    return mixer_->Run(pool, {.tokens = {tokens}, .slots = {slot}}, x, form);
  }

  std::unique_ptr<MixerCase> mixer_;
};

std::vector<std::byte> Saved(const StatePool& pool, int32_t slot) {
  std::vector<std::byte> bytes(static_cast<size_t>(pool.spec().bytes()));
  EXPECT_TRUE(pool.Save(slot, bytes).ok());
  return bytes;
}

// All memory of a slot, its padding too.
std::vector<uint32_t> SlotBits(const StatePool& pool, int32_t slot) {
  std::vector<uint32_t> bits;
  for (size_t i = 0; i < pool.spec().tensors.size(); ++i) {
    const auto floats = static_cast<size_t>(pool.stride(i));
    const size_t at = bits.size();
    bits.resize(at + floats);
    std::memcpy(bits.data() + at,
                pool.base(i) + slot * pool.stride(i),
                floats * sizeof(float));
  }
  return bits;
}

std::vector<float> Joined(std::initializer_list<std::vector<float>> parts) {
  std::vector<float> all;
  for (const std::vector<float>& part : parts) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// A row's slot and the order of the states in the pool change nothing, nor does
// what the rows beside it say.
TEST_P(MixerStateTest, NeighboursDoNotReachARowToTheBit) {
  const std::vector<float> own_short = Tokens(12);
  const std::vector<float> own_long = Tokens(70, kSeed + 1);
  for (const Form form : kForms) {
    SCOPED_TRACE(FormName(form));
    std::vector<NamedValues> outputs[2];
    std::vector<NamedValues> states[2];
    for (const int trial : {0, 1}) {
      const auto seed = kSeed + 10 * static_cast<uint32_t>(trial + 1);
      const std::unique_ptr<StatePool> pool = mixer_->NewPool(6);
      const std::vector<int32_t> slots = trial == 0
                                             ? std::vector<int32_t>{0, 1, 2, 3}
                                             : std::vector<int32_t>{3, 5, 0, 1};
      outputs[trial] = mixer_->Run(
          *pool,
          {.tokens = {5, 12, 70, 100}, .slots = slots},
          Joined({Tokens(5, seed), own_short, own_long, Tokens(100, seed + 1)}),
          form);
      outputs[trial] = TokensOf(outputs[trial], mixer_->hidden(), 5, 5 + 82);
      for (const int row : {1, 2}) {
        for (NamedValues& tensor : mixer_->State(*pool, slots[row])) {
          states[trial].push_back(std::move(tensor));
        }
      }
    }

    ExpectBitEqual(outputs[1], outputs[0]);
    ExpectBitEqual(states[1], states[0]);
  }
}

// Not to the bit: a matrix product of another number of rows may take its sums
// in another order.
TEST_P(MixerStateTest, ARowAmongOthersIsWhatItIsAlone) {
  const std::vector<int32_t> lengths = {0, 1, 7, 63, 64, 90};
  const std::vector<int32_t> slots = {4, 0, 6, 2, 5, 1};
  const std::vector<float> x = Tokens(225);
  for (const Form form : kForms) {
    const std::unique_ptr<StatePool> pool = mixer_->NewPool(7);
    const std::vector<NamedValues> together =
        mixer_->Run(*pool, {.tokens = lengths, .slots = slots}, x, form);

    int64_t end = 0;
    for (size_t row = 0; row < lengths.size(); ++row) {
      const int64_t begin = end;
      end += lengths[row];
      if (begin == end) continue;
      SCOPED_TRACE(testing::Message() << FormName(form) << ", a row of "
                                      << lengths[row] << " tokens");
      const int64_t hidden = mixer_->hidden();
      const std::unique_ptr<StatePool> own_pool = mixer_->NewPool(1);
      const std::vector<NamedValues> alone = Feed(
          *own_pool,
          0,
          std::span(x).subspan(static_cast<size_t>(begin * hidden),
                               static_cast<size_t>((end - begin) * hidden)),
          form);

      ExpectNear(
          TokensOf(together, mixer_->hidden(), begin, end), alone, kRmseMax);
      ExpectNear(mixer_->State(*pool, slots[row]),
                 mixer_->State(*own_pool, 0),
                 kRmseMax);
    }
  }
}

TEST_P(MixerStateTest, ASavedStateIsLoadedToTheBitAndGoesOnAsTheOther) {
  for (const int32_t tokens : {1, 5, 80}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    const std::unique_ptr<StatePool> pool = mixer_->NewPool(2);
    const std::unique_ptr<StatePool> other = mixer_->NewPool(3);
    Feed(*pool, 1, Tokens(tokens), Form::kByLength);

    const std::vector<std::byte> saved = Saved(*pool, 1);
    ASSERT_TRUE(other->Load(saved, 2).ok());

    EXPECT_EQ(Saved(*other, 2), saved);
    for (const int32_t more : {1, 7, 90}) {
      const std::vector<float> x = Tokens(more, kSeed + 1);
      ExpectBitEqual(Feed(*other, 2, x, Form::kByLength),
                     Feed(*pool, 1, x, Form::kByLength));
      EXPECT_EQ(Saved(*other, 2), Saved(*pool, 1));
    }
  }
}

TEST_P(MixerStateTest, SlotsThatNoRowNamesKeepEveryBit) {
  for (const Form form : kForms) {
    SCOPED_TRACE(FormName(form));
    const std::unique_ptr<StatePool> pool = mixer_->NewPool(6);
    for (int32_t slot = 0; slot < 6; ++slot) {
      Feed(*pool, slot, Tokens(4, kSeed + static_cast<uint32_t>(slot)), form);
    }
    // These are full of the NaN of free slots.
    pool->Release(2);
    pool->Release(5);
    std::vector<std::vector<uint32_t>> before;
    for (int32_t slot = 0; slot < 6; ++slot) {
      before.push_back(SlotBits(*pool, slot));
    }

    const std::vector<NamedValues> outputs =
        mixer_->Run(*pool,
                    {.tokens = {1, 9, 3, 70}, .slots = {3, 0, -1, 4}},
                    Tokens(83),
                    form);

    for (const int32_t slot : {1, 2, 5}) {
      EXPECT_EQ(SlotBits(*pool, slot), before[static_cast<size_t>(slot)])
          << "slot " << slot;
    }
    for (const int32_t slot : {0, 3, 4}) {
      EXPECT_NE(SlotBits(*pool, slot), before[static_cast<size_t>(slot)])
          << "slot " << slot;
      ExpectFinite(mixer_->State(*pool, slot));
    }
    ExpectFinite(TokensOf(outputs, mixer_->hidden(), 0, 10));
    ExpectFinite(TokensOf(outputs, mixer_->hidden(), 13, 83));
  }
}

TEST_P(MixerStateTest, WhatIsNotFiniteStaysInItsRowAndShows) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const PassRows rows = {.tokens = {5, 12, 70}, .slots = {1, 0, 2}};
  const std::vector<float> clean = Tokens(87);
  const int32_t hidden = mixer_->hidden();
  for (const Form form : kForms) {
    const std::unique_ptr<StatePool> pool = mixer_->NewPool(3);
    const std::vector<NamedValues> want = mixer_->Run(*pool, rows, clean, form);

    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
      SCOPED_TRACE(testing::Message() << FormName(form) << ", " << bad);
      std::vector<float> x = clean;
      std::fill_n(x.begin() + 8 * hidden, hidden, bad);
      const std::unique_ptr<StatePool> bad_pool = mixer_->NewPool(3);
      const std::vector<NamedValues> got =
          mixer_->Run(*bad_pool, rows, x, form);

      for (const auto& [begin, end] : {std::pair(0, 5), std::pair(17, 87)}) {
        ExpectBitEqual(TokensOf(got, hidden, begin, end),
                       TokensOf(want, hidden, begin, end));
      }
      for (const int32_t slot : {1, 2}) {
        ExpectBitEqual(mixer_->State(*bad_pool, slot),
                       mixer_->State(*pool, slot));
      }
      // Of the row itself, what came before is as it was, and what is not
      // finite does not pass for a number.
      ExpectBitEqual(TokensOf(got, hidden, 5, 8), TokensOf(want, hidden, 5, 8));
      for (const NamedValues& part : TokensOf(got, hidden, 8, 9)) {
        EXPECT_THAT(part.values,
                    testing::Contains(testing::Truly(
                        [](float value) { return !std::isfinite(value); })))
            << part.name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Mixers,
    MixerStateTest,
    testing::Combine(testing::ValuesIn(MixerRows()),
                     testing::Values(WeightDtype::kFloat32,
                                     WeightDtype::kBFloat16)),
    [](const testing::TestParamInfo<Param>& info) {
      return CaseName(std::get<0>(info.param), std::get<1>(info.param));
    });

}  // namespace
}  // namespace weir::engine
