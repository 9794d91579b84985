// SPDX-License-Identifier: Apache-2.0
//
// Numbers, times and tables as people read them.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace weir::client {

// 1234567 -> "1,234,567".
std::string FormatCount(uint64_t count);
// 598016 -> "584 KiB"; three digits at most.
std::string FormatBytes(uint64_t bytes);
// 4967.3 -> "4,967", 12.34 -> "12.3", 0.5 -> "0.50".
std::string FormatRate(double rate);
// "0:42", "12:05", "1:02:03", "3d 04:05".
std::string FormatClock(absl::Duration duration);
// "850 us", "12.3 ms", "1.20 s".
std::string FormatLatency(double seconds);
std::string FormatFixed(double number, int digits);
// A word for a shell's command line, quoted if it must be.
std::string FormatShellWord(const std::string& word);

// Rows of equal length, the first one the heads. Columns are aligned: to the
// right where every cell but the head begins with a digit.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

}  // namespace weir::client
