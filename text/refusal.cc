// SPDX-License-Identifier: Apache-2.0
#include "text/refusal.h"

#include "absl/strings/escaping.h"

namespace weir::text {
namespace {

constexpr size_t kQuotedBytesMax = 80;

}  // namespace

std::string Quoted(std::string_view text) {
  const bool cut = text.size() > kQuotedBytesMax;
  text = text.substr(0, kQuotedBytesMax);
  return absl::StrCat("\"", absl::CHexEscape(View(text)), cut ? "...\"" : "\"");
}

absl::Status At(std::string_view place, const absl::Status& refusal) {
  return {refusal.code(), absl::StrCat(View(place), ": ", refusal.message())};
}

}  // namespace weir::text
