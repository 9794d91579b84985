// SPDX-License-Identifier: Apache-2.0
//
// Unicode's normalisation form C: characters composed, combining marks in
// canonical order. Tables of Unicode 14, written by tools/nfc_tables.py.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

namespace weir::text {

// REQUIRES: `text` is valid UTF-8.
std::string ToNfc(std::string_view text);

}  // namespace weir::text
