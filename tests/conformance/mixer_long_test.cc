// SPDX-License-Identifier: Apache-2.0
//
// Every mixer of the registry over 100,000 tokens, in passes as long as a
// server's: what its forms lose to rounding stays lost in the noise.
#include <algorithm>
#include <span>

#include "gtest/gtest.h"
#include "tests/conformance/mixer_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261127;
constexpr int32_t kPassTokens = 4000;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// What it touches is the same, at a tenth of the speed.
constexpr int32_t kPasses = 2;
#else
constexpr int32_t kPasses = 25;
#endif

class MixerLongTest : public testing::TestWithParam<MixerRow> {};

TEST_P(MixerLongTest, StaysWithinTheBound) {
  const auto mixer = MixerCase::Make(GetParam(), WeightDtype::kFloat32);
  ASSERT_NE(mixer, nullptr);
  const std::unique_ptr<StatePool> want_pool = mixer->NewPool(1);
  const std::unique_ptr<StatePool> recurrent_pool = mixer->NewPool(1);
  const std::unique_ptr<StatePool> chunk_pool = mixer->NewPool(1);
  const PassRows row = {.tokens = {kPassTokens}, .slots = {0}};
  for (int32_t pass = 0; pass < kPasses; ++pass) {
    const std::vector<float> x = RandomTokens(
        kPassTokens, mixer->hidden(), kSeed + static_cast<uint32_t>(pass));
    const std::vector<NamedValues> want =
        mixer->Run(*want_pool, row, x, Form::kReference);
    for (const Form form : {Form::kRecurrent, Form::kChunk}) {
      SCOPED_TRACE(testing::Message() << FormName(form) << ", "
                                      << (pass + 1) * kPassTokens << " tokens");
      StatePool& pool =
          form == Form::kRecurrent ? *recurrent_pool : *chunk_pool;

      const std::vector<NamedValues> got = mixer->Run(pool, row, x, form);

      ExpectNear(got, want, kRmseMax);
      ExpectNear(mixer->State(pool, 0), mixer->State(*want_pool, 0), kRmseMax);
    }
    // One failure says it.
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers,
                         MixerLongTest,
                         testing::ValuesIn(MixerRows()),
                         [](const testing::TestParamInfo<MixerRow>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace weir::engine
