// SPDX-License-Identifier: Apache-2.0
#include "server/generation_text.h"

#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace weir::server {
namespace {

std::string PushAll(ByteText& text, std::string_view bytes) {
  std::string shown;
  for (char c : bytes) shown += text.Push(static_cast<uint8_t>(c));
  return shown;
}

TEST(ByteTextTest, AStopStringIsFoundAcrossTokensAndCharacters) {
  ByteText text;
  text.StopAt({"\u20ac\u20ac"});

  EXPECT_EQ(PushAll(text, "5 \u20ac 6 \u20ac"), "5 \u20ac 6 ");
  EXPECT_EQ(text.stop(), nullptr);
  EXPECT_EQ(PushAll(text, "\u20ac"), "");
  ASSERT_NE(text.stop(), nullptr);
  EXPECT_EQ(*text.stop(), "\u20ac\u20ac");
  EXPECT_EQ(text.Flush(), "");
}

TEST(ByteTextTest, FlushGivesTheHeldPrefixAndReplacesTheUnfinished) {
  ByteText text;
  text.StopAt({"stop"});

  EXPECT_EQ(PushAll(text, "sto\xe2\x82"), "");
  EXPECT_EQ(text.Flush(), "sto\xef\xbf\xbd");
  EXPECT_EQ(text.stop(), nullptr);
}

TEST(ByteTextTest, ATokenWithoutTextBreaksACharacterOff) {
  ByteText text;

  EXPECT_EQ(text.Push(0xe2), "");
  EXPECT_EQ(text.Push(256), "\xef\xbf\xbd");
  EXPECT_EQ(text.Push('a'), "a");
}

}  // namespace
}  // namespace weir::server
