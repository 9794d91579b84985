// SPDX-License-Identifier: Apache-2.0
#include "text/utf8.h"

#include <string>

#include "gtest/gtest.h"

namespace weir::text {
namespace {

TEST(Utf8Test, EveryCodePointComesBack) {
  for (char32_t value = 0; value <= 0x10ffff; ++value) {
    if (value >= 0xd800 && value < 0xe000) continue;
    std::string text = "x";
    AppendUtf8(value, text);
    ASSERT_EQ(InvalidUtf8At(text), std::nullopt) << static_cast<int>(value);
    const CodePoint point = CodePointAt(text, 1);
    ASSERT_EQ(point.value, value);
    ASSERT_EQ(point.bytes, text.size() - 1);
    ASSERT_EQ(CharacterBefore(text, text.size()), 1u);
  }
}

TEST(Utf8Test, TheFirstInvalidByteIsNamed) {
  struct Case {
    std::string_view text;
    size_t at;
  };
  const Case cases[] = {{"abc\x80", 3},
                        {"\xc0\x80", 0},
                        {"a\xe0\x80\x80", 1},
                        {"\xed\xa0\x80", 0},
                        {"\xf4\x90\x80\x80", 0},
                        {"12345678901234567\xff", 17},
                        {"\u20ac\xe2\x82", 3},
                        {"\xf0\x9f\x98", 0},
                        {"\xe2\x82z", 0}};
  for (const Case& test : cases) {
    EXPECT_EQ(InvalidUtf8At(test.text), test.at) << test.text;
  }
  EXPECT_EQ(InvalidUtf8At(""), std::nullopt);
}

}  // namespace
}  // namespace weir::text
