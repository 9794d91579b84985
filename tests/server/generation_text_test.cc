// SPDX-License-Identifier: Apache-2.0
#include "server/generation_text.h"

#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace weir::server {
namespace {

std::string PushAll(GenerationText& text, std::string_view bytes) {
  std::string shown;
  for (char c : bytes) shown += text.Push(static_cast<uint8_t>(c));
  return shown;
}

TEST(GenerationTextTest, AStopStringIsFoundAcrossTokensAndCharacters) {
  GenerationText text{text::Tokenizer()};
  text.StopAt({"\u20ac\u20ac"});

  EXPECT_EQ(PushAll(text, "5 \u20ac 6 \u20ac"), "5 \u20ac 6 ");
  EXPECT_EQ(text.stop(), nullptr);
  EXPECT_EQ(PushAll(text, "\u20ac"), "");
  ASSERT_NE(text.stop(), nullptr);
  EXPECT_EQ(*text.stop(), "\u20ac\u20ac");
  EXPECT_EQ(text.Flush(), "");
}

TEST(GenerationTextTest, FlushGivesTheHeldPrefixAndReplacesTheUnfinished) {
  GenerationText text{text::Tokenizer()};
  text.StopAt({"stop"});

  EXPECT_EQ(PushAll(text, "sto\xe2\x82"), "");
  EXPECT_EQ(text.Flush(), "sto\xef\xbf\xbd");
  EXPECT_EQ(text.stop(), nullptr);
}

TEST(GenerationTextTest, ATokenWithoutTextBreaksACharacterOff) {
  GenerationText text{text::Tokenizer()};

  EXPECT_EQ(text.Push(0xe2), "");
  EXPECT_EQ(text.Push(256), "\xef\xbf\xbd");
  EXPECT_EQ(text.Push('a'), "a");
}

TEST(GenerationTextTest, AStopStringMayEndWithinAToken) {
  auto vocabulary =
      text::RwkvVocabulary::Parse("1 'go ' 3\n2 'STO' 3\n3 'PPED' 4\n", 4);
  ASSERT_TRUE(vocabulary.ok());
  GenerationText text{text::Tokenizer(*std::move(vocabulary))};
  text.StopAt({"STOP"});

  EXPECT_EQ(text.Push(1), "go ");
  EXPECT_EQ(text.Push(2), "");
  EXPECT_EQ(text.Push(3), "");
  ASSERT_NE(text.stop(), nullptr);
  EXPECT_EQ(text.Flush(), "");
}

}  // namespace
}  // namespace weir::server
