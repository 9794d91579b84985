// SPDX-License-Identifier: Apache-2.0
#include "text/utf8_stream.h"

#include <random>
#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace weir::text {
namespace {

#define REPLACED "\xef\xbf\xbd"

std::string Decode(std::string_view bytes) {
  Utf8Stream stream;
  std::string text;
  for (char c : bytes) stream.Push(static_cast<uint8_t>(c), text);
  stream.Flush(text);
  return text;
}

// Whether `text` is valid UTF-8, written as the definition: one code point at a
// time, shortest form, no surrogate.
bool IsUtf8(std::string_view text) {
  for (size_t n = 0; n < text.size();) {
    const auto lead = static_cast<uint8_t>(text[n]);
    const int more = lead < 0x80    ? 0
                     : lead >= 0xf0 ? 3
                     : lead >= 0xe0 ? 2
                     : lead >= 0xc0 ? 1
                                    : -1;
    if (more < 0 || n + static_cast<size_t>(more) >= text.size()) return false;
    uint32_t point = more == 0 ? lead : lead & (0x3f >> more);
    for (int k = 1; k <= more; ++k) {
      const auto byte = static_cast<uint8_t>(text[n + k]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3f);
    }
    static constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (point < kLeast[more] || point > 0x10ffff) return false;
    if (point >= 0xd800 && point < 0xe000) return false;
    n += more + 1;
  }
  return true;
}

TEST(Utf8StreamTest, ValidTextComesOutUnchanged) {
  const std::string text =
      "a\u00e9\u20ac\U0001f600 \x01\x7f\u07ff\uffff\U0010ffff";

  EXPECT_EQ(Decode(text), text);
}

TEST(Utf8StreamTest, ACharacterIsHeldUntilItsLastByte) {
  Utf8Stream stream;
  std::string text;

  stream.Push(0xf0, text);
  stream.Push(0x9f, text);
  stream.Push(0x98, text);
  EXPECT_EQ(text, "");
  stream.Push(0x80, text);

  EXPECT_EQ(text, "\U0001f600");
}

struct InvalidCase {
  const char* name;
  std::string_view bytes;
  std::string_view text;
};

TEST(Utf8StreamTest, EachInvalidStretchBecomesOneReplacement) {
  const InvalidCase cases[] = {
      {"continuation alone", "a\x80z", "a" REPLACED "z"},
      {"two continuations", "\x80\x80", REPLACED REPLACED},
      {"overlong two bytes", "\xc0\x80", REPLACED REPLACED},
      {"overlong three bytes", "\xe0\x80\x80", REPLACED REPLACED REPLACED},
      {"surrogate", "\xed\xa0\x80", REPLACED REPLACED REPLACED},
      {"beyond U+10FFFF",
       "\xf4\x90\x80\x80",
       REPLACED REPLACED REPLACED REPLACED},
      {"lead bytes that never are", "\xf5\xff\xfe", REPLACED REPLACED REPLACED},
      {"cut by ASCII", "\xe2\x82z", REPLACED "z"},
      {"cut by a new character", "\xf0\x9f\x98\xc3\xa9", REPLACED "\u00e9"},
      {"cut by the end", "\xf0\x9f\x98", REPLACED},
      {"lead after lead", "\xe2\xe2\x82\xac", REPLACED "\u20ac"},
  };
  for (const InvalidCase& test : cases) {
    EXPECT_EQ(Decode(test.bytes), test.text) << test.name;
  }
}

TEST(Utf8StreamTest, RandomBytesGiveValidTextThatStartsWithEachPart) {
  constexpr uint32_t kSeed = 7;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  for (int round = 0; round < 2000; ++round) {
    Utf8Stream stream;
    std::string text;
    size_t shown = 0;
    for (int n = 0; n < 40; ++n) {
      // Bytes around the borders of the ranges come often.
      static constexpr uint8_t kBorders[] = {0x00,
                                             0x7f,
                                             0x80,
                                             0x8f,
                                             0x90,
                                             0x9f,
                                             0xa0,
                                             0xbf,
                                             0xc1,
                                             0xc2,
                                             0xdf,
                                             0xe0,
                                             0xed,
                                             0xef,
                                             0xf0,
                                             0xf4,
                                             0xf5,
                                             0xff};
      const bool border = random() % 2 == 0;
      stream.Push(border ? kBorders[random() % std::size(kBorders)]
                         : static_cast<uint8_t>(random()),
                  text);
      ASSERT_TRUE(IsUtf8(text)) << "round " << round;
      ASSERT_LE(text.size() - shown, 7u);  // at most a U+FFFD and a character
      shown = text.size();
    }
    stream.Flush(text);
    ASSERT_TRUE(IsUtf8(text)) << "round " << round;
  }
}

TEST(Utf8StreamTest, AfterAFlushTheNextTextStartsAfresh) {
  Utf8Stream stream;
  std::string text;
  stream.Push(0xe2, text);
  stream.Flush(text);
  stream.Flush(text);

  stream.Push('a', text);

  EXPECT_EQ(text, REPLACED "a");
}

}  // namespace
}  // namespace weir::text
