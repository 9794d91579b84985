// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <utility>

#include "text/nfc.h"

namespace weir::text {
namespace {

std::string Apply(const NfcStep&, std::string_view text) { return ToNfc(text); }

std::string Apply(const PrependStep& step, std::string_view text) {
  if (text.empty()) return {};
  std::string out;
  out.reserve(step.prefix.size() + text.size());
  return out.append(step.prefix).append(text);
}

std::string Apply(const ReplaceStep& step, std::string_view text) {
  return ReplaceAll(text, step);
}

}  // namespace

std::string ReplaceAll(std::string_view text, const ReplaceStep& step) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  // Spaces, for the most, which stand too close for a search to pay.
  if (step.from.size() == 1) {
    for (const char c : text) {
      if (c == step.from[0]) {
        out += step.to;
      } else {
        out += c;
      }
    }
    return out;
  }
  size_t at = 0;
  for (size_t found = text.find(step.from); found != std::string_view::npos;
       found = text.find(step.from, at)) {
    out.append(text, at, found - at).append(step.to);
    at = found + step.from.size();
  }
  return out.append(text, at);
}

std::string_view Normalizer::Run(std::string_view text,
                                 std::string& room) const {
  for (const Step& step : steps_) {
    std::string next =
        std::visit([text](const auto& s) { return Apply(s, text); }, step);
    room = std::move(next);
    text = room;
  }
  return text;
}

}  // namespace weir::text
