// SPDX-License-Identifier: Apache-2.0
#include "text/python_literal.h"

#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

bool IsOctal(char c) { return c >= '0' && c <= '7'; }

uint32_t HexValue(char c) {
  if (c <= '9') return static_cast<uint32_t>(c - '0');
  return static_cast<uint32_t>(absl::ascii_tolower(c) - 'a' + 10);
}

class Reader {
 public:
  Reader(std::string_view body, char quote, bool bytes)
      : body_(body), quote_(quote), bytes_(bytes) {}

  absl::StatusOr<std::string> Read() {
    while (at_ < body_.size()) {
      const char c = body_[at_++];
      if (c == quote_) return Refusal("a quote within the literal");
      if (c == '\\') {
        WEIR_RETURN_IF_ERROR(Escape());
      } else if (bytes_ && static_cast<uint8_t>(c) >= 0x80) {
        return Refusal("a byte literal with characters beyond ASCII");
      } else {
        out_ += c;
      }
    }
    return std::move(out_);
  }

 private:
  absl::Status Escape() {
    if (at_ == body_.size())
      return Refusal("a backslash before the last quote");
    const char c = body_[at_++];
    static constexpr std::string_view kLetters = "\\'\"abfnrtv";
    static constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t n = kLetters.find(c); n != std::string_view::npos) {
      out_ += kValues[n];
      return absl::OkStatus();
    }
    if (c == 'x') return Hex(2);
    if (c == 'u' && !bytes_) return Hex(4);
    if (c == 'U' && !bytes_) return Hex(8);
    if (IsOctal(c)) return Octal(c);
    return Refusal("an unknown escape \\", std::string(1, c));
  }

  absl::Status Hex(size_t digits) {
    uint32_t value = 0;
    for (size_t n = 0; n < digits; ++n) {
      if (at_ == body_.size() || !absl::ascii_isxdigit(body_[at_])) {
        return Refusal("an escape with too few hexadecimal digits");
      }
      value = value << 4 | HexValue(body_[at_++]);
    }
    return Put(value);
  }

  absl::Status Octal(char first) {
    auto value = static_cast<uint32_t>(first - '0');
    for (int n = 0; n < 2 && at_ < body_.size() && IsOctal(body_[at_]); ++n) {
      value = value << 3 | static_cast<uint32_t>(body_[at_++] - '0');
    }
    return Put(value);
  }

  absl::Status Put(uint32_t value) {
    if (bytes_) {
      if (value > 0xff) return Refusal("an escape beyond one byte");
      out_ += static_cast<char>(value);
      return absl::OkStatus();
    }
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) {
      return Refusal("an escape that is no character");
    }
    AppendUtf8(value, out_);
    return absl::OkStatus();
  }

  std::string_view body_;
  const char quote_;
  const bool bytes_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> ParsePythonLiteral(std::string_view literal) {
  const bool bytes = !literal.empty() && literal[0] == 'b';
  if (bytes) literal.remove_prefix(1);
  if (literal.size() < 2 || (literal[0] != '\'' && literal[0] != '"') ||
      literal.back() != literal[0]) {
    return Refusal("neither a text literal nor a byte literal");
  }
  return Reader(literal.substr(1, literal.size() - 2), literal[0], bytes)
      .Read();
}

}  // namespace weir::text
