// SPDX-License-Identifier: Apache-2.0
#include "text/regex_syntax.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

// Oniguruma's \w, as the contents of a class. Below U+0100 it follows a table
// of its own, in which superscripts and fractions are of words.
constexpr const char* kWord =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

constexpr const char* kCategories[] = {
    "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",
    "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps",
    "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs", "Cc", "Cf"};

constexpr const char* kScripts[] = {
    "Arabic",   "Armenian",  "Bengali",   "Bopomofo", "Cyrillic", "Devanagari",
    "Georgian", "Greek",     "Gujarati",  "Gurmukhi", "Han",      "Hangul",
    "Hebrew",   "Hiragana",  "Kannada",   "Katakana", "Khmer",    "Lao",
    "Latin",    "Malayalam", "Mongolian", "Myanmar",  "Sinhala",  "Tamil",
    "Telugu",   "Thai",      "Tibetan"};

constexpr std::string_view kGroups[] = {
    "(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};

template <size_t n>
bool Holds(const char* const (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) {
      WEIR_RETURN_IF_ERROR(in_class_ ? InClass() : Outside());
    }
    if (in_class_) return Unknown("a class without its end");
    return std::move(out_);
  }

 private:
  absl::Status Unknown(std::string_view what) const {
    return Refusal("the regular expression ",
                   Quoted(in_),
                   " has ",
                   View(what),
                   " at byte ",
                   at_,
                   ", which is not understood");
  }

  bool Next(std::string_view text) const {
    return in_.substr(at_, text.size()) == text;
  }

  absl::Status Copy(size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
    return absl::OkStatus();
  }

  // Writes `text` for the next `bytes` bytes.
  absl::Status Write(size_t bytes, std::string_view text) {
    out_ += text;
    at_ += bytes;
    return absl::OkStatus();
  }

  absl::Status Outside() {
    switch (in_[at_]) {
      case '\\':
        return Escape();
      case '(':
        return Group();
      case '[':
        in_class_ = true;
        WEIR_RETURN_IF_ERROR(Copy(Next("[^") ? 2 : 1));
        return Next("]") ? Unknown("a class that begins with ]")
                         : absl::OkStatus();
      case ']':
        return Unknown("a loose ]");
      case '}':
        return Write(1, "\\}");
      case '*':
      case '+':
      case '?':
        WEIR_RETURN_IF_ERROR(Copy(1));
        return Unstacked(Next("?") || Next("+"));
      case '{':
        return Braces();
      default:
        return Copy(1);
    }
  }

  // Copies what goes with a quantifier, if it does. Fails if one more follows:
  // what that means differs.
  absl::Status Unstacked(bool suffixed) {
    if (suffixed) WEIR_RETURN_IF_ERROR(Copy(1));
    const bool more = Next("*") || Next("+") || Next("?") || Next("{");
    return more ? Unknown("a quantifier of a quantifier") : absl::OkStatus();
  }

  absl::Status Group() {
    if (!Next("(?")) return Copy(1);
    for (const std::string_view group : kGroups) {
      if (Next(group)) return Copy(group.size());
    }
    return Unknown("a group of this kind");
  }

  absl::Status Braces() {
    const size_t end = in_.find('}', at_);
    const std::string_view body =
        end == std::string_view::npos ? "" : in_.substr(at_ + 1, end - at_ - 1);
    const size_t comma = body.find(',');
    const auto number = [](std::string_view text) {
      return text.size() <= 4 &&
             std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
    };
    const std::string_view least = body.substr(0, comma);
    const bool range = comma != std::string_view::npos;
    const std::string_view most = range ? body.substr(comma + 1) : "";
    if (body.empty() || body == "," || !number(least) || !number(most)) {
      return Write(1, "\\{");
    }
    WEIR_RETURN_IF_ERROR(Write(1, least.empty() ? "{0" : "{"));
    WEIR_RETURN_IF_ERROR(Copy(body.size() + 1));
    return Unstacked(range && Next("?"));
  }

  absl::Status InClass() {
    if (Next("[")) return Unknown("a class within a class");
    if (Next("&&")) return Unknown("an intersection of classes");
    if (Next("\\")) return Escape();
    if (Next("]")) in_class_ = false;
    return Copy(1);
  }

  absl::Status Escape() {
    if (at_ + 1 == in_.size()) return Unknown("a loose backslash");
    const char c = in_[at_ + 1];
    if (absl::ascii_ispunct(c) || c == ' ') return Copy(2);
    switch (c) {
      case 's':
        return Write(2, "\\p{White_Space}");
      case 'S':
        return Write(2, "\\P{White_Space}");
      case 'd':
        return Write(2, "\\p{Nd}");
      case 'D':
        return Write(2, "\\P{Nd}");
      case 'w':
        WEIR_RETURN_IF_ERROR(Write(2, in_class_ ? "" : "["));
        return Write(0, absl::StrCat(kWord, in_class_ ? "" : "]"));
      case 'W':
        if (in_class_) return Unknown("\\W in a class");
        return Write(2, absl::StrCat("[^", kWord, "]"));
      case 'p':
      case 'P':
        return Property(c == 'P');
      case 'x':
      case 'u':
        return Number();
      case 'A':
      case 'z':
        return in_class_ ? Unknown("an anchor in a class") : Copy(2);
      case 'v':
        return Write(2, "\\x{0b}");
      default:
        break;
    }
    static constexpr std::string_view kControls = "nrtfae";
    if (kControls.find(c) != std::string_view::npos) return Copy(2);
    return Unknown(absl::StrCat("\\", std::string(1, c)));
  }

  // \p{Name}. A script is PCRE2's script proper, without its extensions.
  absl::Status Property(bool outside) {
    const size_t end = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' ||
        end == std::string_view::npos) {
      return Unknown("a property without a name in braces");
    }
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    if (!name.empty() && name[0] == '^') {
      outside = !outside;
      name.remove_prefix(1);
    }
    const bool script = Holds(kScripts, name);
    if (!script && !Holds(kCategories, name)) {
      return Unknown(absl::StrCat("the property ", Quoted(name)));
    }
    return Write(
        end + 1 - at_,
        absl::StrCat(
            outside ? "\\P{" : "\\p{", script ? "sc:" : "", View(name), "}"));
  }

  // \xHH, \x{H...} and \uHHHH. Two digits are a byte, and a byte from 80 on is
  // no character.
  absl::Status Number() {
    size_t begin = at_ + 2;
    size_t end = begin + (in_[at_ + 1] == 'u' ? 4 : 2);
    size_t after = end;
    char32_t limit = in_[at_ + 1] == 'u' ? 0x10ffff : 0x7f;
    if (in_.substr(at_, 3) == "\\x{") {
      ++begin;
      end = std::min(in_.find('}', begin), in_.size());
      after = end + 1;
      limit = 0x10ffff;
    }
    uint32_t value = 0;
    if (after > in_.size() || end - begin > 6 ||
        !absl::SimpleHexAtoi(View(in_.substr(begin, end - begin)), &value) ||
        value > limit || (value >= 0xd800 && value < 0xe000)) {
      return Unknown("a character's number");
    }
    return Write(after - at_, absl::StrCat("\\x{", absl::Hex(value), "}"));
  }

  const std::string_view in_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> FromOniguruma(std::string_view pattern) {
  if (pattern.empty() || pattern.size() > kPatternBytesMax) {
    return Refusal("a regular expression of ",
                   pattern.size(),
                   " bytes; 1 to ",
                   kPatternBytesMax,
                   " can be read");
  }
  if (InvalidUtf8At(pattern)) return Refusal("a regular expression not UTF-8");
  return Translator(pattern).Run();
}

}  // namespace weir::text
