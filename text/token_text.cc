// SPDX-License-Identifier: Apache-2.0
#include "text/token_text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "text/byte_alphabet.h"
#include "text/refusal.h"

namespace weir::text {
namespace {

std::string Apply(const ReplaceStep& step, std::string_view token, bool) {
  return ReplaceAll(token, step);
}

std::string Apply(const StripStep& step, std::string_view token, bool) {
  for (uint32_t n = 0; n < step.start && token.starts_with(step.character);
       ++n) {
    token.remove_prefix(step.character.size());
  }
  for (uint32_t n = 0; n < step.stop && token.ends_with(step.character); ++n) {
    token.remove_suffix(step.character.size());
  }
  return std::string(token);
}

std::string Apply(const SpaceStep& step, std::string_view token, bool first) {
  return ReplaceAll(token,
                    {step.replacement, first && step.drop_first ? "" : " "});
}

// "<0x..>" as one byte; anything else as it is.
std::string FallBack(std::string token) {
  uint32_t value = 0;
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' ||
      !absl::ascii_isxdigit(token[3]) || !absl::ascii_isxdigit(token[4]) ||
      !absl::SimpleHexAtoi(token.substr(3, 2), &value)) {
    return token;
  }
  return std::string(1, static_cast<char>(value));
}

}  // namespace

std::string TokenText::Render(std::string_view token, bool first) const {
  std::string out(token);
  for (const auto& step : steps) {
    out = std::visit([&](const auto& s) { return Apply(s, out, first); }, step);
  }
  switch (bytes) {
    case Bytes::kText:
      return out;
    case Bytes::kLevel:
      return BytesOfCharacters(out).value_or(out);
    case Bytes::kFallback:
      return FallBack(std::move(out));
  }
  return out;
}

}  // namespace weir::text
