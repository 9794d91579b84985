// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "text/regex_syntax.h"

namespace weir::text {
namespace {

using testing::HasSubstr;

// All matches, one after the other, joined by '|'.
std::string Matches(const std::string& pattern, std::string_view text) {
  const auto translated = FromOniguruma(pattern);
  if (!translated.ok()) return std::string(translated.status().message());
  const auto regex = Regex::Compile(*translated);
  if (!regex.ok()) return std::string(regex.status().message());
  Matcher matcher(text.size());
  std::string out;
  Matcher::Match match;
  for (size_t from = 0; from < text.size(); from = match.end) {
    const absl::Status status = matcher.Find(*regex, text, from, match);
    if (!status.ok()) return std::string(status.message());
    if (!match.found || match.begin == match.end) break;
    out.append(text, match.begin, match.end - match.begin).append("|");
  }
  return out;
}

struct Case {
  const char* pattern;
  std::string_view text;
  const char* matches;
};

TEST(RegexTest, MeansWhatOnigurumaMeans) {
  const Case cases[] = {
      {"\\s+", "a \u00a0\u0085\u3000b\u180ec", " \u00a0\u0085\u3000|"},
      {"\\w+",
       "a\u0301_\u00bd9 \u24b6\u2167-x",
       "a\u0301_\u00bd9|\u24b6\u2167|x|"},
      {"[^\\s\\d]+", "ab1\u0663 c", "ab|c|"},
      {"(?i:'s|'LL)", "'S 'll 't", "'S|'ll|"},
      {"^a$", "a\na\nb", "a|a|"},
      {"\\p{N}{1,3}", "12345", "123|45|"},
      {"a{,2}b", "aaab", "aab|"},
      {"a{b}", "a{b}", "a{b}|"},
      {"\\p{^Lu}+", "abC", "ab|"},
      {"\\p{Han}+", "\u4e00\u3001\u3042", "\u4e00|"},
      {"\\x41\\u00e9\\x{1F600}", "A\u00e9\U0001f600", "A\u00e9\U0001f600|"},
      {"[\\x{4e00}-\\x{9fa5}\\v]+?", "\u4e00\u4e01", "\u4e00|\u4e01|"},
      {".+", "a\nb", "a|b|"},
      {"a++b|a*+", "aab aa", "aab|"},
      {"(?<!a)b(?=c)(?>c*)(?!d)", "bccab", "bcc|"},
      {"[!-/:-@\\[-`{-~]+", "a[]!b", "[]!|"},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(Matches(test.pattern, test.text), test.matches) << test.pattern;
  }
}

TEST(RegexTest, WhatMayMeanAnotherThingIsRefused) {
  const char* cases[] = {
      "[a&&b]",      "[[:alpha:]]", "[a[b]]", "[]a]",  "a]",      "\\h",
      "\\b",         "\\Z",         "\\G",    "\\1",   "\\k<a>",  "(?<a>b)",
      "(?i)a",       "(?#a)b",      "a**",    "a{2}+", "a{2}{3}", "a{2}?",
      "\\p{Greek_}", "\\p{Alpha}",  "\\pL",   "\\xff", "\\ud800", "\\x{110000}",
      "[\\W]",       "[\\A]",       "[a",     "a\\",   "\\R",     "\\K",
      "a\\p{L",      "\\u12",
  };
  for (const char* pattern : cases) {
    EXPECT_THAT(Matches(pattern, "a"), HasSubstr("is not understood"))
        << pattern;
  }
  for (const char* pattern : {"(a", "a)", "*a", "[b-a]"}) {
    EXPECT_THAT(Matches(pattern, "a"), HasSubstr("cannot be compiled"))
        << pattern;
  }
  EXPECT_THAT(Matches("", "a"), HasSubstr("0 bytes"));
  EXPECT_THAT(Matches(std::string(5000, 'a'), "a"), HasSubstr("5000 bytes"));
  EXPECT_THAT(Matches("\xff", "a"), HasSubstr("not UTF-8"));
}

TEST(RegexTest, BacktrackingWithoutEndIsRefused) {
  const std::string text = std::string(64, 'a') + "cb";

  EXPECT_THAT(Matches("(?:a+)+b", text), HasSubstr("beyond its limits"));
}

TEST(RegexTest, ASearchThatIsQuadraticIsRefused) {
  const std::string text(size_t{1} << 20, 'a');

  EXPECT_THAT(Matches("a(?=a*[bc])", text), HasSubstr("more than"));
}

TEST(RegexTest, AMatchFarFromTheStartIsFound) {
  const std::string text = std::string(100'000, '\xc3') + "x";
  std::string wide;
  for (int n = 0; n < 100'000; ++n) wide += "\u00e9";

  EXPECT_EQ(Matches("b", wide + "b"), "b|");
  EXPECT_EQ(Matches("(?:\u00e9|x)+", wide), wide + "|");
}

}  // namespace
}  // namespace weir::text
