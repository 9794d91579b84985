// SPDX-License-Identifier: Apache-2.0
#include "text/rwkv_vocabulary.h"

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

RwkvVocabulary Parsed(const std::string& file) {
  auto vocabulary = RwkvVocabulary::Parse(file, 65536);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
  return *std::move(vocabulary);
}

std::vector<uint32_t> Encoded(const RwkvVocabulary& vocabulary,
                              std::string_view text) {
  std::vector<uint32_t> ids;
  EXPECT_TRUE(vocabulary.Encode(text, ids).ok());
  return ids;
}

// All single bytes, as the published file writes them, and some words.
std::string FullFile() {
  std::string file;
  uint32_t id = 0;
  for (int byte = 0; byte < 256; ++byte) {
    absl::StrAppend(&file,
                    ++id,
                    byte < 128 ? " '\\x" : " b'\\x",
                    absl::Hex(byte, absl::kZeroPad2),
                    "' 1\n");
  }
  for (const char* line : {"' the' 4",
                           "'the' 3",
                           "'th' 2",
                           "'\\n\\n' 2",
                           "'\xe2\x82\xac' 3",
                           "'\\u20ac5' 4",
                           "b'\\xe2\\x82' 2",
                           "'aaaa' 4",
                           "'aaaaaaaaaaaaaaaab' 17"}) {
    absl::StrAppend(&file, ++id, " ", line, "\n");
  }
  return file;
}

TEST(RwkvVocabularyTest, TheLongestTokenThatFitsIsTaken) {
  const RwkvVocabulary vocabulary = Parsed(
      "1 'a' 1\n2 'b' 1\n3 'ab' 2\n4 'abab' 4\n5 \"'\" 1\n6 '\"' 1\n"
      "7 b'\\xff\\x00' 2\n8 '\\t\\\\' 2\n9 ' ' 1\n");

  EXPECT_THAT(Encoded(vocabulary, "ababab"), ElementsAre(4, 3));
  EXPECT_THAT(Encoded(vocabulary, "aab"), ElementsAre(1, 3));
  EXPECT_THAT(Encoded(vocabulary, "'\""), ElementsAre(5, 6));
  EXPECT_THAT(Encoded(vocabulary, std::string_view("\xff\0 ", 3)),
              ElementsAre(7, 9));
  EXPECT_THAT(Encoded(vocabulary, "\t\\"), ElementsAre(8));
  EXPECT_THAT(Encoded(vocabulary, ""), ElementsAre());
  EXPECT_EQ(vocabulary.size(), 10u);
}

TEST(RwkvVocabularyTest, TheEndOfATextHasNoBytes) {
  const RwkvVocabulary vocabulary = Parsed("1 'a' 1\n");

  EXPECT_EQ(vocabulary.Bytes(0), "");
  EXPECT_EQ(vocabulary.Bytes(1), "a");
  EXPECT_EQ(vocabulary.Bytes(2), "");
  EXPECT_EQ(vocabulary.Bytes(UINT32_MAX), "");
}

TEST(RwkvVocabularyTest, WhatHasNoTokenIsRefused) {
  const RwkvVocabulary vocabulary = Parsed("0 'a' 1\n1 'ab' 2\n");
  std::vector<uint32_t> ids;

  const absl::Status status = vocabulary.Encode("aabb", ids);

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3"));
}

TEST(RwkvVocabularyTest, AnyBytesComeBack) {
  constexpr uint32_t kSeed = 3;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const RwkvVocabulary vocabulary = Parsed(FullFile());
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (size_t n = random() % 60; n > 0; --n) {
      static constexpr std::string_view kOften = "aaab the\n\xe2\x82\xac";
      text += random() % 4 == 0 ? static_cast<char>(random())
                                : kOften[random() % kOften.size()];
    }
    std::string back;
    for (uint32_t id : Encoded(vocabulary, text)) back += vocabulary.Bytes(id);
    ASSERT_EQ(back, text) << "round " << round;
  }
}

struct BadFile {
  const char* file;
  const char* message;
};

TEST(RwkvVocabularyTest, BadLinesAreRefusedByNumber) {
  const BadFile cases[] = {
      {"", "no line"},
      {"1 'a' 1\n3 'b' 1\n", "line 2: index 3 where 2 is next"},
      {"1 'a' 1\n1 'b' 1\n", "line 2: index 1 where 2 is next"},
      {"2 'a' 1\n", "line 1: the first index is 2"},
      {"1 'a' 1\n2 'b' 1\n3 'a' 1\n", "line 3: the token of line 1 again"},
      {"1 'a' 2\n", "line 1: a token of 1 bytes is said to have 2"},
      {"1 '\\u20ac' 1\n", "line 1: a token of 3 bytes"},
      {"1 '' 0\n", "line 1: a token of 0 bytes"},
      {"1 'a'\n", "line 1: not `index literal bytes`"},
      {"1 'a' 1\n\n2 'b' 1\n", "line 2: not `index"},
      {"x 'a' 1\n", "line 1: the index is no number"},
      {"-1 'a' 1\n", "line 1: the index is no number"},
      {"1 'a' one\n", "line 1: the length is no number"},
      {"1 a 1\n", "neither a text literal nor a byte literal"},
      {"1 'a 1\n", "neither a text literal nor a byte literal"},
      {"1 r'a' 1\n", "neither a text literal nor a byte literal"},
      {"1 ' 1\n", "neither a text literal nor a byte literal"},
      {"1 'a'b' 3\n", "a quote within the literal"},
      {"1 '\\q' 1\n", "unknown escape \\q"},
      {"1 '\\N{DASH}' 3\n", "unknown escape \\N"},
      {"1 '\\x1' 1\n", "too few hexadecimal digits"},
      {"1 '\\ud800' 3\n", "no character"},
      {"1 '\\U00110000' 4\n", "no character"},
      {"1 b'\\u20ac' 3\n", "unknown escape \\u"},
      {"1 b'\\777' 1\n", "beyond one byte"},
      {"1 b'\xe2\x82\xac' 3\n", "beyond ASCII"},
      {"1 'a\\' 2\n", "a backslash before the last quote"},
  };
  for (const BadFile& test : cases) {
    const auto vocabulary = RwkvVocabulary::Parse(test.file, 65536);
    ASSERT_FALSE(vocabulary.ok()) << test.file;
    EXPECT_EQ(vocabulary.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(vocabulary.status().message()),
                HasSubstr(test.message))
        << test.file;
  }
}

TEST(RwkvVocabularyTest, IdsBeyondTheModelAreRefused) {
  const std::string file = "0 'a' 1\n1 'b' 1\n";

  EXPECT_TRUE(RwkvVocabulary::Parse(file, 2).ok());
  const auto small = RwkvVocabulary::Parse(file, 1);

  EXPECT_THAT(std::string(small.status().message()),
              HasSubstr("line 2: index 1 in a model with a vocabulary of 1"));
}

TEST(RwkvVocabularyTest, HugeFilesAndTokensAreRefused) {
  const std::string file(RwkvVocabulary::kFileBytesMax + 1, ' ');
  EXPECT_THAT(
      std::string(RwkvVocabulary::Parse(file, 65536).status().message()),
      HasSubstr("bytes, at most"));
  const std::string token(RwkvVocabulary::kTokenBytesMax + 1, 'a');
  EXPECT_THAT(
      std::string(RwkvVocabulary::Parse(
                      absl::StrCat("1 '", token, "' ", token.size()), 65536)
                      .status()
                      .message()),
      HasSubstr("line 1: a token of 1025 bytes"));
}

}  // namespace
}  // namespace weir::text
