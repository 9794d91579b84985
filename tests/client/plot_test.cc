// SPDX-License-Identifier: Apache-2.0
#include "client/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <regex>

namespace weir::client {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// A reader of XML as strict as a picture needs: tags balance, attributes are
// quoted and not repeated, & and < are escaped. Returns what is wrong.
std::optional<std::string> WhatIsWrong(const std::string& xml) {
  static const std::regex entity("&(amp|lt|gt|quot|apos);");
  static const std::regex attribute(
      "\\s+([a-zA-Z][a-zA-Z0-9:-]*)=\"([^\"<]*)\"");
  std::vector<std::string> open;
  size_t at = 0;
  while (at < xml.size()) {
    const size_t less = xml.find('<', at);
    std::string text = xml.substr(at, less - at);
    if (std::regex_replace(text, entity, "").find('&') != std::string::npos) {
      return "a bare & in: " + text;
    }
    if (less == std::string::npos) break;
    const size_t more = xml.find('>', less);
    if (more == std::string::npos) return "a tag without an end";
    std::string tag = xml.substr(less + 1, more - less - 1);
    at = more + 1;
    if (tag.starts_with("/")) {
      if (open.empty() || open.back() != tag.substr(1)) {
        return "</" + tag.substr(1) + "> closes nothing";
      }
      open.pop_back();
      continue;
    }
    const bool closed = tag.ends_with("/");
    if (closed) tag.pop_back();
    const std::string name = tag.substr(0, tag.find_first_of(" \n"));
    std::string rest = tag.substr(name.size());
    std::map<std::string, int> seen;
    for (std::sregex_iterator i(rest.begin(), rest.end(), attribute), end;
         i != end;
         ++i) {
      if (++seen[(*i)[1]] > 1) return "an attribute twice in <" + tag + ">";
    }
    rest = std::regex_replace(rest, attribute, "");
    if (rest.find_first_not_of(" \n") != std::string::npos) {
      return "not an attribute: " + rest;
    }
    if (!closed) open.push_back(name);
  }
  if (!open.empty()) return "<" + open.back() + "> is not closed";
  return std::nullopt;
}

Curve SomeCurve(int appends, bool scored) {
  Curve curve;
  const std::vector<float> scores(scored ? 250 : 0, -1.2f);
  for (int i = 0; i < appends; ++i) {
    curve.Add(i * 250, 250, scores, absl::Milliseconds(50));
  }
  return curve;
}

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

TEST(PlotTest, TheCheckerSeesWhatIsBroken) {
  EXPECT_EQ(WhatIsWrong("<a x=\"1\"><b/>t &amp; u</a>"), std::nullopt);
  EXPECT_NE(WhatIsWrong("<a><b></a></b>"), std::nullopt);
  EXPECT_NE(WhatIsWrong("<a>"), std::nullopt);
  EXPECT_NE(WhatIsWrong("<a x=1/>"), std::nullopt);
  EXPECT_NE(WhatIsWrong("<a x=\"1\" x=\"2\"/>"), std::nullopt);
  EXPECT_NE(WhatIsWrong("<a>R & D</a>"), std::nullopt);
}

TEST(PlotTest, BothPanelsWithTitlesUnitsLegendsAndTicks) {
  const std::string svg = DrawCurve(
      SomeCurve(80, true), {.title = "A title", .subtitle = "And more"});

  EXPECT_EQ(WhatIsWrong(svg), std::nullopt);
  EXPECT_THAT(svg,
              AllOf(HasSubstr(">A title</text>"),
                    HasSubstr(">And more</text>"),
                    HasSubstr(">bits per byte</text>"),
                    HasSubstr(">milliseconds per 1,000 tokens</text>"),
                    HasSubstr(">position (tokens)</text>"),
                    HasSubstr(">each 1,000 tokens</text>"),
                    HasSubstr(">so far</text>"),
                    HasSubstr(">median 200 ms</text>"),
                    HasSubstr(">20k</text>"),
                    HasSubstr("prefers-color-scheme: dark")));
  EXPECT_EQ(Count(svg, "<polyline"), 4) << "two lines in each panel";
}

TEST(PlotTest, WithoutScoresOnlyTheCostIsDrawn) {
  const std::string svg = DrawCurve(SomeCurve(80, false), {.title = "t"});

  EXPECT_EQ(WhatIsWrong(svg), std::nullopt);
  EXPECT_THAT(svg, Not(HasSubstr("bits per")));
  EXPECT_EQ(Count(svg, "<polyline"), 2);
}

TEST(PlotTest, NothingAndASinglePointAreDrawnToo) {
  EXPECT_EQ(WhatIsWrong(DrawCurve(Curve(), {.title = "t"})), std::nullopt);
  const std::string svg = DrawCurve(SomeCurve(1, true), {.title = "t"});
  EXPECT_EQ(WhatIsWrong(svg), std::nullopt);
  EXPECT_GE(Count(svg, "<circle"), 3);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(PlotTest, TextIsEscaped) {
  const std::string svg = DrawCurve(
      SomeCurve(8, true), {.title = "a<b> & \"c\" \x01 \xFF", .subtitle = ""});
  EXPECT_EQ(WhatIsWrong(svg), std::nullopt);
  EXPECT_THAT(svg, HasSubstr("a&lt;b&gt; &amp; &quot;c&quot;"));
  EXPECT_EQ(svg.find('\x01'), std::string::npos);
}

TEST(PlotTest, AFewOutliersDoNotFlattenTheRest) {
  Curve curve(1000);
  for (int i = 0; i < 200; ++i) {
    curve.Add(i * 1000,
              1000,
              {},
              absl::Milliseconds(i == 50 || i == 90 ? 20'000 : 100));
  }
  const std::string svg = DrawCurve(curve, {.title = "t"});
  EXPECT_THAT(svg, HasSubstr("(2 beyond the scale)"));
  EXPECT_THAT(svg, HasSubstr(">150</text>"));
  EXPECT_THAT(svg, Not(HasSubstr(">20k</text>")));
}

TEST(PlotTest, TicksAreRoundAndCoverTheRange) {
  EXPECT_THAT(Ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(Ticks(0, 0.9, 4), ElementsAre(0, 0.25, 0.5, 0.75, 1));
  EXPECT_THAT(Ticks(1200, 4800, 4), ElementsAre(1000, 2000, 3000, 4000, 5000));
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(0.25), "0.25");
  EXPECT_EQ(ShortNumber(1500), "1.5k");
  EXPECT_EQ(ShortNumber(2e6), "2M");
}

}  // namespace
}  // namespace weir::client
