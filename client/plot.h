// SPDX-License-Identifier: Apache-2.0
//
// A Curve as a picture: bits and milliseconds against position, as one SVG
// that needs nothing else and follows the reader's light or dark scheme.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/curve.h"

namespace weir::client {

struct PlotText {
  std::string title = {};
  std::string subtitle = {};
  std::string bits_unit = "byte";  // "bits per byte"
};

// The whole file. The panel of bits is left out if nothing was scored.
std::string DrawCurve(const Curve& curve, const PlotText& text);

// Round numbers from 0 (or from `low`) to at least `high`, about `count` of
// them.
std::vector<double> Ticks(double low, double high, int count);

// 1500 -> "1.5k", 2000000 -> "2M".
std::string ShortNumber(double number);

std::string EscapeXml(std::string_view text);

}  // namespace weir::client
