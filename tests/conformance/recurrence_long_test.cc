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
#if defined(__SANITIZE_ADDRESS__)
// What it touches is the same, at a tenth of the speed.
constexpr int32_t kTokens = 5000;
#else
constexpr int32_t kTokens = 100000;
#endif
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct LongStream {
  const char* name;
  RecurrenceKind kind;
  int32_t period;    // 0: no token repeated
  float log2_decay;  // 1: random
  float beta;        // -1: random
  double rmse_max = kRmseMax;
};

// With beta = 2 a step turns the state's part along the key over, and where
// nothing is forgotten no step damps the rounding of an earlier one.
constexpr double kUndampedRmseMax = 2e-3;

constexpr RecurrenceKind kPlain = RecurrenceKind::kPlain;
constexpr RecurrenceKind kDelta = RecurrenceKind::kDelta;
constexpr RecurrenceKind kChannel = RecurrenceKind::kChannel;
constexpr RecurrenceKind kDecayed = RecurrenceKind::kDecayed;

constexpr LongStream kStreams[] = {
    {"RandomDelta", kDelta, 0, 1, -1},
    {"RandomPlain", kPlain, 0, 1, -1},
    {"RandomSlowDelta", kDelta, 0, -0.001F, -1},
    {"RandomSlowPlain", kPlain, 0, -0.01F, -1},
    {"RandomChannel", kChannel, 0, 1, -1},
    {"RandomDecay1e7Channel", kChannel, 0, -1e-7F, -1},
    {"NothingForgottenChannel", kChannel, 0, 0, -1},
    {"OneTokenChannel", kChannel, 1, 1, -1},
    {"NothingKeptChannel", kChannel, 0, -kInfinity, -1},
    {"RandomDecayed", kDecayed, 0, 1, -1},
    {"RandomDecay1e7Decayed", kDecayed, 0, -1e-7F, -1},
    {"NothingForgottenBetaOneDecayed", kDecayed, 0, 0, 1},
    {"OneTokenBetaOneDecayed", kDecayed, 1, 0, 1},
    {"TwoTokensDecayed", kDecayed, 2, 1, -1},
    {"RandomUndecayed", RecurrenceKind::kUndecayed, 0, 1, -1},
    {"OneTokenUndecayed", RecurrenceKind::kUndecayed, 1, 1, -1},
    {"RandomReadBefore", RecurrenceKind::kReadBefore, 0, 1, -1},
    {"RandomByValue", RecurrenceKind::kByValue, 0, 1, -1},
    {"RandomDecay1e7ByValue", RecurrenceKind::kByValue, 0, -1e-7F, -1},
    {"NothingForgottenPlain", kPlain, 0, 0, -1},
    {"RandomDecay1e8Plain", kPlain, 0, -1e-8F, -1},
    {"RandomDecay1e7Plain", kPlain, 0, -1e-7F, -1},
    {"RandomDecay1e6Plain", kPlain, 0, -1e-6F, -1},
    {"RandomDecay1e5Plain", kPlain, 0, -1e-5F, -1},
    {"RandomDecay1e7Delta", kDelta, 0, -1e-7F, -1},
    {"OneTokenDelta", kDelta, 1, 1, -1},
    {"OneTokenPlain", kPlain, 1, 1, -1},
    {"TwoTokensDelta", kDelta, 2, 1, -1},
    {"TwoTokensPlain", kPlain, 2, 1, -1},
    {"NothingKept", kDelta, 0, -kInfinity, -1},
    {"NothingKeptPlain", kPlain, 0, -1000.0F, -1},
    {"NothingForgotten", kDelta, 0, 0, -1},
    {"NothingForgottenBetaOne", kDelta, 0, 0, 1},
    {"OneTokenNothingForgottenBetaOne", kDelta, 1, 0, 1},
    {"TwoTokensNothingForgottenBetaOne", kDelta, 2, 0, 1},
    {"NothingForgottenBetaZero", kDelta, 0, 0, 0},
    {"BetaTwo", kDelta, 0, 1, 2},
    {"OneTokenBetaTwo", kDelta, 1, 1, 2},
    {"TwoTokensBetaTwo", kDelta, 2, 1, 2},
    {"OneTokenBetaTwoNothingForgotten", kDelta, 1, 0, 2, kUndampedRmseMax},
    {"TwoTokensBetaTwoNothingForgotten", kDelta, 2, 0, 2, kUndampedRmseMax},
    {"BetaTwoNothingForgotten", kDelta, 0, 0, 2, kUndampedRmseMax},
};

class RecurrenceLongTest : public testing::TestWithParam<LongStream> {};

TEST_P(RecurrenceLongTest, StaysWithinTheBound) {
  const LongStream& stream = GetParam();
  // Drawn once; copying it is cheaper.
  static const RecurrenceCase drawn(RecurrenceShape{}, {kTokens}, 20240602);
  const bool by_head = stream.kind == kPlain || stream.kind == kDelta;
  RecurrenceCase rows =
      by_head ? drawn
              : RecurrenceCase({.kind = stream.kind}, {kTokens}, 20240602);
  const std::vector<float> start = rows.state;
  rows.shape.kind = stream.kind;
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
      rows.state = start;

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
