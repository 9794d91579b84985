// SPDX-License-Identifier: Apache-2.0
#include "client/format.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "client/utf8.h"

namespace weir::client {

std::string FormatCount(uint64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string FormatFixed(double number, int digits) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", digits, number);
  return text.data();
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  constexpr std::array<const char*, 6> kUnits = {
      "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double size = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (size >= 999.5 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  const bool whole = size >= 99.95 || size == std::floor(size);
  return FormatFixed(size, whole ? 0 : 1) + " " + kUnits[unit];
}

std::string FormatRate(double rate) {
  if (!std::isfinite(rate) || rate < 0) return "-";
  if (rate >= 99.95)
    return FormatCount(static_cast<uint64_t>(std::llround(rate)));
  return FormatFixed(rate, rate >= 9.995 ? 1 : 2);
}

std::string FormatClock(absl::Duration duration) {
  if (duration < absl::ZeroDuration() || duration > absl::Hours(24 * 1000)) {
    return "-";
  }
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Seconds(0.5));
  const int64_t minutes = seconds / 60 % 60;
  const int64_t hours = seconds / 3600;
  std::array<char, 64> text;
  if (hours >= 48) {
    std::snprintf(text.data(),
                  text.size(),
                  "%dd %02d:%02d",
                  static_cast<int>(hours / 24),
                  static_cast<int>(hours % 24),
                  static_cast<int>(minutes));
  } else if (hours > 0) {
    std::snprintf(text.data(),
                  text.size(),
                  "%d:%02d:%02d",
                  static_cast<int>(hours),
                  static_cast<int>(minutes),
                  static_cast<int>(seconds % 60));
  } else {
    std::snprintf(text.data(),
                  text.size(),
                  "%d:%02d",
                  static_cast<int>(minutes),
                  static_cast<int>(seconds % 60));
  }
  return text.data();
}

std::string FormatLatency(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  const auto with_unit = [](double number, const char* unit) {
    const int digits = number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
    return FormatFixed(number, digits) + " " + unit;
  };
  if (seconds < 1e-3) return FormatFixed(seconds * 1e6, 0) + " us";
  if (seconds < 1) return with_unit(seconds * 1e3, "ms");
  return with_unit(seconds, "s");
}

std::string FormatShellWord(const std::string& word) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) ||
           std::string_view("_-./:,+@%").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) {
    return word;
  }
  std::string quoted = "'";
  for (const char c : word) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return {};
  const size_t columns = rows[0].size();
  std::vector<int> widths(columns, 0);
  std::vector<bool> right(columns, rows.size() > 1);
  for (size_t row = 0; row < rows.size(); ++row) {
    for (size_t column = 0; column < columns; ++column) {
      const std::string& cell = rows[row][column];
      widths[column] = std::max(widths[column], Columns(cell));
      // An id may begin with a digit too: the first column names things.
      const bool number = column > 0 && !cell.empty() &&
                          std::isdigit(static_cast<unsigned char>(cell[0]));
      if (row > 0 && cell != "-" && !number) right[column] = false;
    }
  }
  std::string table;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t column = 0; column < columns; ++column) {
      const std::string pad(widths[column] - Columns(row[column]), ' ');
      line += right[column] ? pad + row[column] : row[column] + pad;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

}  // namespace weir::client
