// SPDX-License-Identifier: Apache-2.0
#include "text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

struct Decomposition {
  char32_t from;
  char32_t first;
  char32_t second;  // 0: there is only one
  uint8_t back;     // whether composing gives `from` again
};
struct ClassRange {
  char32_t first;
  char32_t last;
  uint8_t value;  // canonical combining class
};

#include "text/nfc_tables.inc"

// Hangul syllables are composed by arithmetic.
constexpr char32_t kSyllable = 0xac00;
constexpr char32_t kLead = 0x1100;
constexpr char32_t kVowel = 0x1161;
constexpr char32_t kTail = 0x11a7;  // one before the first: none is 0
constexpr char32_t kLeads = 19;
constexpr char32_t kVowels = 21;
constexpr char32_t kTails = 28;
constexpr char32_t kSyllables = kLeads * kVowels * kTails;

// Below it, nothing changes and nothing combines.
constexpr char32_t kFirstChecked = 0x300;

struct Character {
  char32_t value;
  uint8_t combining;
};

class Tables {
 public:
  static const Tables& Get() {
    static const Tables* const tables = new Tables;
    return *tables;
  }

  uint8_t Combining(char32_t value) const {
    const auto range = std::upper_bound(
        std::begin(kClassRanges),
        std::end(kClassRanges),
        value,
        [](char32_t v, const ClassRange& r) { return v < r.first; });
    if (range == std::begin(kClassRanges)) return 0;
    return value <= std::prev(range)->last ? std::prev(range)->value : 0;
  }

  // Whether a character may change, move, or join the one before it.
  bool Restless(char32_t value) const {
    return value < restless_.size() && restless_[value];
  }

  void Decompose(char32_t value, std::vector<Character>& out) const {
    if (value >= kSyllable && value < kSyllable + kSyllables) {
      const char32_t n = value - kSyllable;
      out.push_back({kLead + n / (kVowels * kTails), 0});
      out.push_back({kVowel + n / kTails % kVowels, 0});
      if (n % kTails != 0) out.push_back({kTail + n % kTails, 0});
      return;
    }
    const auto row = std::lower_bound(
        std::begin(kDecompositions),
        std::end(kDecompositions),
        value,
        [](const Decomposition& d, char32_t v) { return d.from < v; });
    if (row == std::end(kDecompositions) || row->from != value) {
      out.push_back({value, Combining(value)});
      return;
    }
    // Only the first part is decomposed further, four levels deep at most.
    Decompose(row->first, out);
    if (row->second != 0) Decompose(row->second, out);
  }

  // The character that the two make; 0 if they make none.
  char32_t Compose(char32_t first, char32_t second) const {
    if (first >= kLead && first < kLead + kLeads && second >= kVowel &&
        second < kVowel + kVowels) {
      return kSyllable +
             ((first - kLead) * kVowels + (second - kVowel)) * kTails;
    }
    if (first >= kSyllable && first < kSyllable + kSyllables &&
        (first - kSyllable) % kTails == 0 && second > kTail &&
        second < kTail + kTails) {
      return first + (second - kTail);
    }
    const auto found = composed_.find(Pair(first, second));
    return found == composed_.end() ? 0 : found->second;
  }

 private:
  Tables() {
    const auto mark = [this](char32_t value) {
      if (restless_.size() <= value) restless_.resize(value + 1);
      restless_[value] = true;
    };
    for (const ClassRange& range : kClassRanges) {
      for (char32_t v = range.first; v <= range.last; ++v) mark(v);
    }
    for (const Decomposition& row : kDecompositions) {
      if (row.back == 0) {
        mark(row.from);
      } else {
        mark(row.second);
        composed_[Pair(row.first, row.second)] = row.from;
      }
    }
    for (char32_t v = kVowel; v < kVowel + kVowels; ++v) mark(v);
    for (char32_t t = kTail + 1; t < kTail + kTails; ++t) mark(t);
  }

  static uint64_t Pair(char32_t first, char32_t second) {
    return uint64_t{first} << 32 | second;
  }

  std::vector<bool> restless_;  // by code point
  absl::flat_hash_map<uint64_t, char32_t> composed_;
};

// Each run of marks in the order of their classes.
void Reorder(std::vector<Character>& run) {
  for (auto at = run.begin(); at != run.end();) {
    const auto marks = std::find_if(
        at, run.end(), [](const Character& c) { return c.combining != 0; });
    at = std::find_if(
        marks, run.end(), [](const Character& c) { return c.combining == 0; });
    std::stable_sort(marks, at, [](const Character& a, const Character& b) {
      return a.combining < b.combining;
    });
  }
}

// A character joins the last starter unless one of its own class or a higher
// stands between them.
void Compose(const Tables& tables, std::vector<Character>& run) {
  size_t kept = 0;
  size_t starter = SIZE_MAX;
  for (const Character c : run) {
    const bool adjacent = starter != SIZE_MAX && kept == starter + 1;
    const bool free = starter != SIZE_MAX &&
                      (adjacent || run[kept - 1].combining < c.combining);
    const char32_t joined =
        free ? tables.Compose(run[starter].value, c.value) : 0;
    if (joined != 0) {
      run[starter].value = joined;
      continue;
    }
    if (c.combining == 0) starter = kept;
    run[kept++] = c;
  }
  run.resize(kept);
}

// Normalises text[begin, end), which nothing around it can join.
void AppendRun(const Tables& tables,
               std::string_view run_text,
               std::string& out) {
  std::vector<Character> run;
  for (size_t at = 0; at < run_text.size();) {
    const CodePoint point = CodePointAt(run_text, at);
    tables.Decompose(point.value, run);
    at += point.bytes;
  }
  Reorder(run);
  Compose(tables, run);
  for (const Character& c : run) AppendUtf8(c.value, out);
}

}  // namespace

// Runs of restless characters, each with the quiet one before it, are
// normalised apart; all else is copied.
std::string ToNfc(std::string_view text) {
  const Tables& tables = Tables::Get();
  std::string out;
  out.reserve(text.size());
  size_t copied = 0;
  for (size_t at = 0, before = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    if (point.value < kFirstChecked || !tables.Restless(point.value)) {
      before = at;
      at += point.bytes;
      continue;
    }
    before = std::max(before, copied);
    out.append(text, copied, before - copied);
    size_t end = at;
    while (end < text.size()) {
      const CodePoint next = CodePointAt(text, end);
      if (next.value < kFirstChecked || !tables.Restless(next.value)) break;
      end += next.bytes;
    }
    AppendRun(tables, text.substr(before, end - before), out);
    copied = at = before = end;
  }
  out.append(text, copied);
  return out;
}

}  // namespace weir::text
