// SPDX-License-Identifier: Apache-2.0
//
// One head of 64 x 64 over 100,000 tokens: the rounding of every form stays
// within the published bound, on ordinary streams and on the worst ones.
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "engine/kernels/kernel_target.h"
#include "tests/conformance/recurrence_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr int32_t kTokens = 100000;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct LongStream {
  const char* name;
  bool delta;
  int32_t period;    // 0: no token repeated
  float log2_decay;  // 1: random
  float beta;        // -1: random
  double rmse_max = kRmseMax;
};

// With beta = 2 a step turns the state's part along the key over, and where
// nothing is forgotten no step damps the rounding of an earlier one.
constexpr double kUndampedRmseMax = 2e-3;

constexpr LongStream kStreams[] = {
    {"RandomDelta", true, 0, 1, -1},
    {"RandomPlain", false, 0, 1, -1},
    {"RandomSlowDelta", true, 0, -0.001F, -1},
    {"RandomSlowPlain", false, 0, -0.01F, -1},
    {"NothingForgottenPlain", false, 0, 0, -1},
    {"RandomDecay1e8Plain", false, 0, -1e-8F, -1},
    {"RandomDecay1e7Plain", false, 0, -1e-7F, -1},
    {"RandomDecay1e6Plain", false, 0, -1e-6F, -1},
    {"RandomDecay1e5Plain", false, 0, -1e-5F, -1},
    {"RandomDecay1e7Delta", true, 0, -1e-7F, -1},
    {"OneTokenDelta", true, 1, 1, -1},
    {"OneTokenPlain", false, 1, 1, -1},
    {"TwoTokensDelta", true, 2, 1, -1},
    {"TwoTokensPlain", false, 2, 1, -1},
    {"NothingKept", true, 0, -kInfinity, -1},
    {"NothingKeptPlain", false, 0, -1000.0F, -1},
    {"NothingForgotten", true, 0, 0, -1},
    {"NothingForgottenBetaOne", true, 0, 0, 1},
    {"OneTokenNothingForgottenBetaOne", true, 1, 0, 1},
    {"TwoTokensNothingForgottenBetaOne", true, 2, 0, 1},
    {"NothingForgottenBetaZero", true, 0, 0, 0},
    {"BetaTwo", true, 0, 1, 2},
    {"OneTokenBetaTwo", true, 1, 1, 2},
    {"TwoTokensBetaTwo", true, 2, 1, 2},
    {"OneTokenBetaTwoNothingForgotten", true, 1, 0, 2, kUndampedRmseMax},
    {"TwoTokensBetaTwoNothingForgotten", true, 2, 0, 2, kUndampedRmseMax},
    {"BetaTwoNothingForgotten", true, 0, 0, 2, kUndampedRmseMax},
};

class RecurrenceLongTest : public testing::TestWithParam<LongStream> {};

TEST_P(RecurrenceLongTest, StaysWithinTheBound) {
  const LongStream& stream = GetParam();
  // Drawn once; copying it is cheaper.
  static const RecurrenceCase drawn(RecurrenceShape{}, {kTokens}, 20240602);
  RecurrenceCase rows = drawn;
  rows.shape.delta = stream.delta;
  if (stream.period > 0) rows.RepeatTokens(stream.period);
  if (stream.log2_decay <= 0) rows.SetLog2Decay(stream.log2_decay);
  if (stream.beta >= 0) rows.SetBeta(stream.beta);
  rows.Run(RecurrenceForm::kReference);
  const std::vector<float> want_out = rows.AllOut();
  const std::vector<float> want_state = rows.AllStates();

  for (const std::string_view target : KernelTargets()) {
    for (const RecurrenceForm form :
         {RecurrenceForm::kRecurrent, RecurrenceForm::kChunk}) {
      const bool is_chunk = form == RecurrenceForm::kChunk;
      SCOPED_TRACE(std::string(target) + (is_chunk ? " chunk" : " recurrent"));
      ASSERT_TRUE(ForceKernelTarget(target));
      rows.state = drawn.state;

      rows.Run(form);

      EXPECT_LE(RelativeRmse(rows.AllOut(), want_out), stream.rmse_max);
      EXPECT_LE(RelativeRmse(rows.AllStates(), want_state), stream.rmse_max);
    }
  }
  ForceKernelTarget("");
}

INSTANTIATE_TEST_SUITE_P(Streams,
                         RecurrenceLongTest,
                         testing::ValuesIn(kStreams),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace weir::engine
