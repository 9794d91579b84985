// SPDX-License-Identifier: Apache-2.0
//
// Every tensor of every mixer driven to its ends, one after another: whatever
// gate it feeds is then 0 or 1 in fp32 (a decay that forgets all or nothing, a
// beta of 0, 1 or 2, an output gate that is shut), and all else that it feeds
// is far from where it was trained.
#include <algorithm>
#include <string>

#include "gtest/gtest.h"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261126;

enum class End { kLow, kHigh, kBoth };

const char* EndName(End end) {
  switch (end) {
    case End::kLow:
      return "all -100";
    case End::kHigh:
      return "all 100";
    case End::kBoth:
      return "a thousandfold";
  }
  return "unknown";
}

// Beyond 100 sigmoid is 0 or 1 in fp32, softplus 0, and an exponential of an
// exponential 0 or 1.
void Drive(End end, std::vector<float>& values) {
  for (float& value : values) {
    value = end == End::kLow    ? -100.0F
            : end == End::kHigh ? 100.0F
                                : 1000.0F * value;
  }
}

bool IsMatrix(const MixerTensor& tensor) {
  return std::count_if(tensor.shape.begin(),
                       tensor.shape.end(),
                       [](int64_t extent) { return extent > 1; }) > 1;
}

class MixerGatesTest : public testing::TestWithParam<MixerRow> {};

TEST_P(MixerGatesTest, EveryTensorMayLieAtItsEnds) {
  const auto drawn = MixerCase::Make(GetParam(), WeightDtype::kFloat32);
  ASSERT_NE(drawn, nullptr);
  const std::vector<float> x = RandomTokens(85, drawn->hidden(), kSeed);
  const PassRows rows = {.tokens = {1, 14, 70}, .slots = {1, 2, 0}};
  for (const MixerTensor& driven : drawn->tensors()) {
    // A matrix of one number would make all channels equal, of which a norm
    // that takes the mean away leaves nothing. Its ends are those of its signs.
    const std::vector<End> ends =
        IsMatrix(driven) ? std::vector{End::kBoth}
                         : std::vector{End::kLow, End::kHigh, End::kBoth};
    for (const End end : ends) {
      const auto mixer = MixerCase::Make(
          GetParam(),
          WeightDtype::kFloat32,
          [&](const std::string& name, std::vector<float>& values) {
            if (name == driven.name) Drive(end, values);
          });
      ASSERT_NE(mixer, nullptr);
      const std::unique_ptr<StatePool> want_pool = mixer->NewPool(3);
      const std::vector<NamedValues> want =
          mixer->Run(*want_pool, rows, x, Form::kReference);
      for (const Form form : {Form::kRecurrent, Form::kChunk}) {
        SCOPED_TRACE(testing::Message() << driven.name << " " << EndName(end)
                                        << ", " << FormName(form));
        const std::unique_ptr<StatePool> pool = mixer->NewPool(3);

        const std::vector<NamedValues> got = mixer->Run(*pool, rows, x, form);

        ExpectFinite(got);
        ExpectNear(got, want, kRmseMax);
        for (const int32_t slot : {0, 1, 2}) {
          ExpectFinite(mixer->State(*pool, slot));
          ExpectNear(mixer->State(*pool, slot),
                     mixer->State(*want_pool, slot),
                     kRmseMax);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers,
                         MixerGatesTest,
                         testing::ValuesIn(MixerRows()),
                         [](const testing::TestParamInfo<MixerRow>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace weir::engine
