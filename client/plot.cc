// SPDX-License-Identifier: Apache-2.0
#include "client/plot.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "client/format.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

constexpr double kWidth = 960;
constexpr double kLeft = 72;
constexpr double kRight = kWidth - 28;
constexpr double kTop = 84;
constexpr double kPanelHeight = 210;
constexpr double kPanelGap = 52;
constexpr double kBottom = 62;

// Plain classes and no CSS variables: not every viewer knows those.
constexpr char kStyle[] = R"(<style>
text { font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 13px; fill: #3d4552; }
.paper { fill: #ffffff; }
.title { font-size: 18px; font-weight: 600; fill: #14181f; }
.panel { font-size: 14px; font-weight: 600; fill: #14181f; }
.grid { stroke: #e3e7ee; stroke-width: 1; }
.axis { stroke: #8b94a3; stroke-width: 1; }
.line { fill: none; stroke-linejoin: round; }
.window { stroke: #8db8ea; stroke-width: 1.4; }
.running { stroke: #0b5cad; stroke-width: 2.6; }
.cost { stroke: #c2570c; stroke-width: 1.6; }
.median { stroke: #6b7280; stroke-width: 1.4; stroke-dasharray: 6 4; }
.dot.window { fill: #8db8ea; } .dot.running { fill: #0b5cad; }
.dot.cost { fill: #c2570c; } .dot.median { fill: #6b7280; }
@media (prefers-color-scheme: dark) {
text { fill: #b6bfcc; }
.paper { fill: #14181f; }
.title, .panel { fill: #f0f3f7; }
.grid { stroke: #2b323d; }
.axis { stroke: #6b7482; }
.window { stroke: #3f6ea3; } .dot.window { fill: #3f6ea3; }
.running { stroke: #7cb7f5; } .dot.running { fill: #7cb7f5; }
.cost { stroke: #f09a5b; } .dot.cost { fill: #f09a5b; }
.median { stroke: #9aa3b0; } .dot.median { fill: #9aa3b0; }
}
</style>
)";

struct Point {
  double x = 0;
  double y = 0;  // NaN: a gap in the line
};
struct Series {
  std::string name;
  std::string css;
  std::vector<Point> points = {};
};
struct Panel {
  std::string id;
  std::string title;
  double top = 0;
  std::vector<Series> series;
};
struct Range {
  double low = 0;
  double high = 1;
};

std::string Number(double number) { return FormatFixed(number, 1); }

std::string Text(double x,
                 double y,
                 std::string_view anchor,
                 std::string_view css,
                 std::string_view text) {
  std::string element = "<text x=\"" + Number(x) + "\" y=\"" + Number(y) + "\"";
  if (!anchor.empty()) {
    element += " text-anchor=\"" + std::string(anchor) + "\"";
  }
  if (!css.empty()) element += " class=\"" + std::string(css) + "\"";
  return element + ">" + EscapeXml(text) + "</text>\n";
}

std::string Line(
    double x1, double y1, double x2, double y2, std::string_view css) {
  return "<line x1=\"" + Number(x1) + "\" y1=\"" + Number(y1) + "\" x2=\"" +
         Number(x2) + "\" y2=\"" + Number(y2) + "\" class=\"" +
         std::string(css) + "\"/>\n";
}

std::vector<double> FiniteValues(const Panel& panel) {
  std::vector<double> values;
  for (const Series& series : panel.series) {
    for (const Point& point : series.points) {
      if (std::isfinite(point.y)) values.push_back(point.y);
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}

// The top of a panel: the greatest value, but a few that stand far out do not
// flatten all the others.
double TopOf(const std::vector<double>& values) {
  if (values.empty() || values.back() <= 0) return 1;
  const double usual = values[(values.size() - 1) * 98 / 100];
  return values.back() > 2.5 * usual && usual > 0 ? 1.5 * usual : values.back();
}

class Canvas {
 public:
  Canvas(Range x, Range y, double top) : x_(x), y_(y), top_(top) {}
  double X(double x) const {
    return kLeft + (x - x_.low) / (x_.high - x_.low) * (kRight - kLeft);
  }
  double Y(double y) const {
    return top_ + kPanelHeight * (1 - (y - y_.low) / (y_.high - y_.low));
  }
  Range x() const { return x_; }
  Range y() const { return y_; }

 private:
  const Range x_;
  const Range y_;
  const double top_;
};

std::string DrawAxes(const Canvas& canvas, double top) {
  std::string svg;
  for (const double tick : Ticks(canvas.y().low, canvas.y().high, 5)) {
    svg += Line(kLeft, canvas.Y(tick), kRight, canvas.Y(tick), "grid");
    svg += Text(kLeft - 8, canvas.Y(tick) + 4, "end", "", ShortNumber(tick));
  }
  const double bottom = top + kPanelHeight;
  for (const double tick : Ticks(canvas.x().low, canvas.x().high, 8)) {
    if (tick < canvas.x().low || tick > canvas.x().high) continue;
    svg += Line(canvas.X(tick), bottom, canvas.X(tick), bottom + 5, "axis");
    svg += Text(canvas.X(tick), bottom + 20, "middle", "", ShortNumber(tick));
  }
  svg += Line(kLeft, top, kLeft, bottom, "axis");
  svg += Line(kLeft, bottom, kRight, bottom, "axis");
  return svg;
}

std::string DrawSeries(const Canvas& canvas, const Series& series) {
  std::string svg;
  std::string points;
  int count = 0;
  const auto flush = [&] {
    if (count == 1) {
      // A line of one point would not be seen.
      const size_t comma = points.find(',');
      svg += "<circle cx=\"" + points.substr(0, comma) + "\" cy=\"" +
             points.substr(comma + 1) + "\" r=\"3\" class=\"dot " + series.css +
             "\"/>\n";
    } else if (count > 1) {
      svg += "<polyline class=\"line " + series.css + "\" points=\"" + points +
             "\"/>\n";
    }
    points.clear();
    count = 0;
  };
  for (const Point& point : series.points) {
    if (!std::isfinite(point.y)) {
      flush();
      continue;
    }
    if (count++ > 0) points += ' ';
    points += Number(canvas.X(point.x)) + "," + Number(canvas.Y(point.y));
  }
  flush();
  return svg;
}

// The names of the lines, right-aligned above the panel.
std::string DrawLegend(const Panel& panel) {
  std::string svg;
  double x = kRight;
  for (auto series = panel.series.rbegin(); series != panel.series.rend();
       ++series) {
    svg += Text(x, panel.top - 10, "end", "", series->name);
    // SVG cannot measure text without a viewer; 7.4 is the mean advance.
    x -= 7.4 * Columns(series->name) + 8;
    svg +=
        Line(x - 24, panel.top - 14, x, panel.top - 14, "line " + series->css);
    x -= 24 + 18;
  }
  return svg;
}

std::string DrawPanel(const Panel& panel, Range x) {
  const std::vector<double> values = FiniteValues(panel);
  const double top_value = TopOf(values);
  const std::vector<double> ticks = Ticks(0, top_value, 5);
  const Canvas canvas(x, {.low = 0, .high = ticks.back()}, panel.top);
  std::string svg;
  svg += "<clipPath id=\"" + panel.id + "\"><rect x=\"" + Number(kLeft) +
         "\" y=\"" + Number(panel.top - 2) + "\" width=\"" +
         Number(kRight - kLeft) + "\" height=\"" + Number(kPanelHeight + 4) +
         "\"/></clipPath>\n";
  std::string title = panel.title;
  const auto above =
      values.end() -
      std::upper_bound(values.begin(), values.end(), ticks.back());
  if (above > 0) title += " (" + std::to_string(above) + " beyond the scale)";
  svg += Text(kLeft, panel.top - 10, "", "panel", title);
  svg += DrawLegend(panel);
  svg += DrawAxes(canvas, panel.top);
  svg += "<g clip-path=\"url(#" + panel.id + ")\">\n";
  for (const Series& series : panel.series) svg += DrawSeries(canvas, series);
  return svg + "</g>\n";
}

double Middle(const Curve& curve, const Curve::Window& window) {
  const uint64_t end = std::min(window.begin + curve.width(), curve.end());
  return (static_cast<double>(window.begin) + static_cast<double>(end)) / 2;
}

Panel BitsPanel(const Curve& curve, const PlotText& text) {
  Series windows{.name = "each " + FormatCount(curve.width()) + " tokens",
                 .css = "window"};
  Series running{.name = "so far", .css = "running"};
  double sum = 0;
  uint64_t scored = 0;
  for (const Curve::Window& window : curve.windows()) {
    sum += window.sum_log_prob;
    scored += window.scored_tokens;
    const double x = Middle(curve, window);
    windows.points.push_back({x, window.bits()});
    running.points.push_back({x, BitsPerToken(sum, scored)});
  }
  return {.id = "bits",
          .title = "bits per " + text.bits_unit,
          .series = {std::move(windows), std::move(running)}};
}

Panel CostPanel(const Curve& curve) {
  Series cost{.name = "each " + FormatCount(curve.width()) + " tokens",
              .css = "cost"};
  std::vector<double> values;
  for (const Curve::Window& window : curve.windows()) {
    const double y = window.milliseconds_per_1000();
    cost.points.push_back({Middle(curve, window), y});
    if (std::isfinite(y)) values.push_back(y);
  }
  Series median{.name = "median", .css = "median"};
  if (!values.empty()) {
    std::nth_element(
        values.begin(), values.begin() + values.size() / 2, values.end());
    const double y = values[values.size() / 2];
    median.name += " " + FormatRate(y) + " ms";
    median.points = {{cost.points.front().x, y}, {cost.points.back().x, y}};
  }
  return {.id = "cost",
          .title = "milliseconds per 1,000 tokens",
          .series = {std::move(median), std::move(cost)}};
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string escaped;
  for (const char c : ForTerminal(ToValidUtf8(text))) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string ShortNumber(double number) {
  const auto trimmed = [](double value) {
    std::string text = FormatFixed(value, 2);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  };
  if (number >= 1e9) return trimmed(number / 1e9) + "G";
  if (number >= 1e6) return trimmed(number / 1e6) + "M";
  if (number >= 1e3) return trimmed(number / 1e3) + "k";
  return trimmed(number);
}

std::vector<double> Ticks(double low, double high, int count) {
  const double raw = (high - low) / count;
  const double magnitude = std::pow(10, std::floor(std::log10(raw)));
  double step = magnitude;
  for (const double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
    step = factor * magnitude;
    if (step >= raw * 0.999) break;
  }
  std::vector<double> ticks;
  const double first = std::floor(low / step);
  for (double i = first; ticks.empty() || ticks.back() < high - step * 1e-9;
       ++i) {
    ticks.push_back(i * step);
  }
  return ticks;
}

std::string DrawCurve(const Curve& curve, const PlotText& text) {
  const std::vector<Curve::Window>& windows = curve.windows();
  Range x{.low = 0, .high = std::max<double>(1, curve.end())};
  if (!windows.empty()) x.low = windows.front().begin;
  std::vector<Panel> panels;
  if (std::any_of(windows.begin(), windows.end(), [](const auto& window) {
        return window.scored_tokens > 0;
      })) {
    panels.push_back(BitsPanel(curve, text));
  }
  panels.push_back(CostPanel(curve));
  double y = kTop;
  std::string body;
  for (Panel& panel : panels) {
    y += 22;
    panel.top = y;
    body += DrawPanel(panel, x);
    y += kPanelHeight + kPanelGap;
  }
  const double height = y - kPanelGap + kBottom;
  const std::string size =
      FormatFixed(kWidth, 0) + " " + FormatFixed(height, 0);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " +
                    size + "\" width=\"" + FormatFixed(kWidth, 0) +
                    "\" height=\"" + FormatFixed(height, 0) +
                    "\" role=\"img\">\n<title>" + EscapeXml(text.title) +
                    "</title>\n" + kStyle +
                    "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n";
  svg += Text(kLeft, 38, "", "title", text.title);
  svg += Text(kLeft, 62, "", "", text.subtitle);
  svg += body;
  svg += Text(
      (kLeft + kRight) / 2, height - 18, "middle", "", "position (tokens)");
  return svg + "</svg>\n";
}

}  // namespace weir::client
