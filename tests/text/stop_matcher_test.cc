// SPDX-License-Identifier: Apache-2.0
#include "text/stop_matcher.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace weir::text {
namespace {

struct Outcome {
  std::string text;
  std::string stop;
  bool operator==(const Outcome&) const = default;
};

void PrintTo(const Outcome& outcome, std::ostream* out) {
  *out << '"' << outcome.text << "\" ended by \"" << outcome.stop << '"';
}

// The definition: the stop string that is complete first, the longest of those
// that end there.
Outcome Search(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string head = text.substr(0, end);
    std::string best;
    for (const std::string& stop : stops) {
      if (head.ends_with(stop) && stop.size() > best.size()) best = stop;
    }
    if (!best.empty()) return {head.substr(0, end - best.size()), best};
  }
  return {text, ""};
}

Outcome Stream(const std::vector<std::string>& parts,
               const std::vector<std::string>& stops) {
  StopMatcher matcher(stops);
  std::string shown;
  for (const std::string& part : parts) shown += matcher.Push(part);
  shown += matcher.Flush();
  return {shown, matcher.stop() == nullptr ? "" : *matcher.stop()};
}

TEST(StopMatcherTest, APossibleBeginningIsHeldBack) {
  StopMatcher matcher({"STOP"});

  EXPECT_EQ(matcher.Push("go S"), "go ");
  EXPECT_EQ(matcher.Push("TO"), "");
  EXPECT_EQ(matcher.Push("RE"), "STORE");
  EXPECT_EQ(matcher.stop(), nullptr);
}

TEST(StopMatcherTest, AStopStringIsNotShownNorAnythingAfterIt) {
  StopMatcher matcher({"\n\n"});

  EXPECT_EQ(matcher.Push("one\ntwo\n"), "one\ntwo");
  EXPECT_EQ(matcher.Push("\nthree"), "");
  ASSERT_NE(matcher.stop(), nullptr);
  EXPECT_EQ(*matcher.stop(), "\n\n");
  EXPECT_EQ(matcher.Push("four"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushShowsWhatWasHeldBack) {
  StopMatcher matcher({"END."});

  EXPECT_EQ(matcher.Push("the END"), "the ");
  EXPECT_EQ(matcher.Flush(), "END");
}

TEST(StopMatcherTest, WithoutStopStringsNothingIsHeldBack) {
  StopMatcher matcher({});

  EXPECT_EQ(matcher.Push("anything"), "anything");
  EXPECT_EQ(matcher.stop(), nullptr);
}

struct StopCase {
  const char* name;
  std::vector<std::string> stops;
  std::string text;
  Outcome outcome;
};

TEST(StopMatcherTest, OverlappingStopStrings) {
  const StopCase cases[] = {
      {"repeats itself", {"aab"}, "aaab", {"a", "aab"}},
      {"border of itself", {"abab"}, "abaabab", {"aba", "abab"}},
      {"first complete wins", {"abcd", "bc"}, "abcd", {"a", "bc"}},
      {"longest of one end", {"c", "abc"}, "xabc", {"x", "abc"}},
      {"prefix wins early", {"abcd", "ab"}, "abcd", {"", "ab"}},
      {"one in another", {"xaby", "ab"}, "xab", {"x", "ab"}},
      {"the same twice", {"q", "q"}, "pq", {"p", "q"}},
      {"at the start", {"a"}, "abc", {"", "a"}},
      {"a character of several bytes",
       {"\u20ac!"},
       "5 \u20ac\u20ac!",
       {"5 \u20ac", "\u20ac!"}},
      {"none", {"zz"}, "z a z", {"z a z", ""}},
  };
  for (const StopCase& test : cases) {
    std::vector<std::string> bytes;
    for (char c : test.text) bytes.emplace_back(1, c);
    EXPECT_EQ(Stream({test.text}, test.stops), test.outcome) << test.name;
    EXPECT_EQ(Stream(bytes, test.stops), test.outcome) << test.name;
  }
}

TEST(StopMatcherTest, AnySplitGivesWhatASearchGives) {
  constexpr uint32_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const auto word = [&](size_t length) {
    std::string text;
    while (text.size() < length) text += "ab"[random() % 2];
    return text;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) {
      stops.push_back(word(1 + random() % 8));
    }
    const std::string text = word(random() % 40);
    std::vector<std::string> parts;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random() % 5;
      parts.push_back(text.substr(at, length));
      at += length;
    }
    ASSERT_EQ(Stream(parts, stops), Search(text, stops)) << "round " << round;
  }
}

}  // namespace
}  // namespace weir::text
