// SPDX-License-Identifier: Apache-2.0
//
// How the tokenizers refuse: INVALID_ARGUMENT, with what and where.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace weir::text {

// Debian's Abseil has a string_view of its own.
inline absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}
inline std::string_view View(absl::string_view text) {
  return {text.data(), text.size()};
}

// `text` for a message: at most 80 bytes of it, quoted and escaped.
std::string Quoted(std::string_view text);

// The parts, written one after the other.
template <typename... Parts>
absl::Status Refusal(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The same refusal, with the place in front: "place: ...".
absl::Status At(std::string_view place, const absl::Status& refusal);

}  // namespace weir::text
