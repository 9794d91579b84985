// SPDX-License-Identifier: Apache-2.0
//
// What the tool shows: bytes as text, numbers, tables, the progress line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "client/curve.h"
#include "client/format.h"
#include "client/progress.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(FormatTest, AShellReadsAWordBack) {
  EXPECT_EQ(FormatShellWord("a/b-c_1.txt"), "a/b-c_1.txt");
  EXPECT_EQ(FormatShellWord("my file"), "'my file'");
  EXPECT_EQ(FormatShellWord("it's"), "'it'\\''s'");
  EXPECT_EQ(FormatShellWord(""), "''");
}

TEST(Utf8Test, BytesOfACharacterWaitForItsRest) {
  const std::string text = "aé€😀z";
  Utf8Assembler assembler;
  std::string shown;
  for (const char byte : text) {
    const std::string piece = assembler.Push(std::string(1, byte));
    EXPECT_EQ(ToValidUtf8(piece), piece);
    shown += piece;
  }
  EXPECT_EQ(shown + assembler.Flush(), text);
}

TEST(Utf8Test, BadBytesBecomeReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(ToValidUtf8("a\xFFz"), "a" + r + "z");
  EXPECT_EQ(ToValidUtf8("\xC3("), r + "(") << "lead without its second byte";
  EXPECT_EQ(ToValidUtf8("\xC0\x80"), r + r) << "overlong";
  EXPECT_EQ(ToValidUtf8("\xED\xA0\x80"), r + r + r) << "surrogate";
  EXPECT_EQ(ToValidUtf8("\xF4\x90\x80\x80"), r + r + r + r) << "too large";
  EXPECT_EQ(ToValidUtf8("\xE2\x82"), r) << "unfinished at the end";
}

TEST(Utf8Test, ATerminalGetsNoControlCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(ForTerminal("a\x1b[31m\tb\n"), "a" + r + "[31m\tb\n");
  EXPECT_EQ(ForTerminal("\xC2\x9B"
                        "1m\xC2\xA0"),
            r + "1m\xC2\xA0");
}

TEST(Utf8Test, CuttingCountsCharactersAndKeepsThemWhole) {
  EXPECT_EQ(CutToColumns("äöü", 3), "äöü");
  EXPECT_EQ(CutToColumns("äöü€", 3), "äö…");
  EXPECT_EQ(CutToColumns("abc", 1), "…");
  EXPECT_EQ(CutToColumns("abc", 0), "");
}

TEST(FormatTest, NumbersAsPeopleReadThem) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1024), "1 KiB");
  EXPECT_EQ(FormatBytes(598016), "584 KiB");
  EXPECT_EQ(FormatBytes(uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(FormatRate(4967.3), "4,967");
  EXPECT_EQ(FormatRate(12.34), "12.3");
  EXPECT_EQ(FormatRate(0.5), "0.50");
  EXPECT_EQ(FormatRate(std::nan("")), "-");
  EXPECT_EQ(FormatLatency(0.00085), "850 us");
  EXPECT_EQ(FormatLatency(0.0123), "12.3 ms");
  EXPECT_EQ(FormatLatency(1.2), "1.20 s");
  EXPECT_EQ(FormatLatency(std::nan("")), "-");
}

TEST(FormatTest, ClocksGrowWithTheirTime) {
  EXPECT_EQ(FormatClock(absl::Seconds(0)), "0:00");
  EXPECT_EQ(FormatClock(absl::Seconds(42)), "0:42");
  EXPECT_EQ(FormatClock(absl::Seconds(59.6)), "1:00");
  EXPECT_EQ(FormatClock(absl::Seconds(725)), "12:05");
  EXPECT_EQ(FormatClock(absl::Seconds(3723)), "1:02:03");
  EXPECT_EQ(FormatClock(absl::Hours(76) + absl::Minutes(5)), "3d 04:05");
  EXPECT_EQ(FormatClock(absl::InfiniteDuration()), "-");
}

TEST(FormatTest, TablesAlignNumbersToTheRightAndEndWithoutBlanks) {
  EXPECT_EQ(FormatTable({{"ID", "POSITION", "STATE"},
                         {"a", "1,000", "idle"},
                         {"1bc", "-", "working"},
                         {"é", "7", "x"}}),
            "ID   POSITION  STATE\n"
            "a       1,000  idle\n"
            "1bc         -  working\n"
            "é           7  x\n");
}

Progress Half() {
  Progress progress;
  progress.position = 123456;
  progress.fraction = 0.5;
  progress.tokens_per_second = 4967;
  progress.bits = 1.8734;
  progress.elapsed = absl::Seconds(30);
  progress.left = absl::Seconds(42);
  return progress;
}

TEST(ProgressTest, TheWholeLineAtACommonWidth) {
  EXPECT_EQ(RenderProgress(Half(), 80, true),
            "█████████████░░░░░░░░░░░░░  50%  123,456  4,967 tok/s  "
            "1.873 bits/byte  ETA 0:42");
  EXPECT_EQ(RenderProgress(Half(), 80, false),
            "[############............]  50%  123,456  4,967 tok/s  "
            "1.873 bits/byte  ETA 0:42");
}

TEST(ProgressTest, NoWidthIsEverExceededAndWhatMattersStaysLongest) {
  for (const bool unicode : {true, false}) {
    for (int width = 1; width <= 200; ++width) {
      const std::string line = RenderProgress(Half(), width, unicode);
      EXPECT_LE(Columns(line), width);
      EXPECT_EQ(line.find('\n'), std::string::npos);
      if (width >= 20) {
        EXPECT_THAT(line, HasSubstr("123,456"));
        EXPECT_THAT(line, HasSubstr("50%"));
      }
      if (width >= 32) {
        EXPECT_THAT(line, HasSubstr("bits/byte"));
      }
    }
  }
  EXPECT_THAT(RenderProgress(Half(), 40, true), Not(HasSubstr("ETA")));
}

TEST(ProgressTest, WithoutALengthThereIsNoBarAndNoEstimate) {
  Progress progress = Half();
  progress.fraction.reset();
  progress.left.reset();
  EXPECT_EQ(RenderProgress(progress, 80, true),
            "123,456  4,967 tok/s  1.873 bits/byte  0:30");
}

TEST(ProgressTest, AHundredPerCentIsTheEnd) {
  Progress progress = Half();
  progress.fraction = 0.9999;
  EXPECT_THAT(RenderProgress(progress, 80, true), HasSubstr(" 99%"));
  progress.fraction = 1;
  EXPECT_THAT(RenderProgress(progress, 80, true), HasSubstr("100%"));
  progress.fraction = 1.5;
  EXPECT_LE(Columns(RenderProgress(progress, 80, true)), 80);
}

TEST(ProgressTest, APlainLineSaysTheSameInWords) {
  EXPECT_EQ(DescribeProgress(Half()),
            "position 123,456 (50%), 4,967 tokens/s, 1.8734 bits/byte, "
            "0:42 left");
}

TEST(ProgressTest, TheRateForgetsWhatIsTenSecondsOld) {
  const absl::Time start = absl::UnixEpoch();
  RateMeter meter(start);
  EXPECT_EQ(meter.rate(), std::nullopt);
  double total = 0;
  for (int second = 1; second <= 60; ++second) {
    total += second <= 30 ? 100 : 400;
    meter.Add(start + absl::Seconds(second), total);
    if (second == 30) {
      EXPECT_DOUBLE_EQ(*meter.rate(), 100);
    }
  }
  EXPECT_DOUBLE_EQ(*meter.rate(), 400);
}

TEST(ProgressTest, TheEstimateIsWhatIsLeftAtTheRate) {
  EXPECT_EQ(EstimateLeft(100, 300.0, 50.0), absl::Seconds(4));
  EXPECT_EQ(EstimateLeft(400, 300.0, 50.0), absl::ZeroDuration());
  EXPECT_EQ(EstimateLeft(100, std::nullopt, 50.0), std::nullopt);
  EXPECT_EQ(EstimateLeft(100, 300.0, std::nullopt), std::nullopt);
  EXPECT_EQ(EstimateLeft(100, 300.0, 0.0), std::nullopt);
}

TEST(CurveTest, AnAppendOverAnEdgeIsSharedOut) {
  Curve curve(16, 100);
  std::vector<float> scores(80, static_cast<float>(-std::log(2.0)));
  scores[0] = std::nanf("");

  curve.Add(0, 80, scores, absl::Milliseconds(80));
  curve.Add(80, 80, scores, absl::Milliseconds(160));

  ASSERT_EQ(curve.windows().size(), 2u);
  EXPECT_EQ(curve.windows()[0].tokens, 100);
  EXPECT_EQ(curve.windows()[0].scored_tokens, 98u);
  EXPECT_NEAR(curve.windows()[0].bits(), 1, 1e-6);
  EXPECT_NEAR(curve.windows()[0].seconds, 0.12, 1e-9);
  EXPECT_EQ(curve.windows()[1].begin, 100u);
  EXPECT_NEAR(curve.windows()[1].milliseconds_per_1000(), 2000, 1e-6);
  EXPECT_EQ(curve.end(), 160u);
}

TEST(CurveTest, MemoryIsBoundedAndNothingIsLost) {
  Curve curve(64, 1000);
  const std::vector<float> scores(256, -1);
  for (uint64_t at = 0; at < 2'000'128; at += 256) {
    curve.Add(at, 256, scores, absl::Milliseconds(1));
  }
  EXPECT_LE(curve.windows().size(), 64u);
  EXPECT_EQ(curve.width(), 32'000u);
  double tokens = 0;
  double seconds = 0;
  double sum = 0;
  for (const Curve::Window& window : curve.windows()) {
    EXPECT_EQ(window.begin % curve.width(), 0u);
    tokens += window.tokens;
    seconds += window.seconds;
    sum += window.sum_log_prob;
  }
  EXPECT_EQ(tokens, 2'000'128);
  EXPECT_EQ(sum, -2'000'128);
  EXPECT_NEAR(seconds, 7.813, 1e-6);
}

TEST(CurveTest, BitsAreThoseOfNaturalLogarithms) {
  EXPECT_DOUBLE_EQ(BitsPerToken(-2 * std::log(2.0), 1), 2);
  EXPECT_TRUE(std::isnan(BitsPerToken(0, 0)));
}

}  // namespace
}  // namespace weir::client
