// SPDX-License-Identifier: Apache-2.0
#include "text/rwkv_vocabulary.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "text/python_literal.h"
#include "text/refusal.h"

namespace weir::text {
namespace {

std::string LineName(size_t line) { return absl::StrCat("line ", line); }

}  // namespace

absl::StatusOr<RwkvVocabulary> RwkvVocabulary::Parse(std::string_view file,
                                                     uint32_t vocabulary) {
  if (file.size() > kFileBytesMax) {
    return Refusal(file.size(), " bytes, at most ", kFileBytesMax);
  }
  RwkvVocabulary out;
  size_t number = 0;
  while (!file.empty()) {
    ++number;
    const std::string_view line = file.substr(0, file.find('\n'));
    file.remove_prefix(std::min(line.size() + 1, file.size()));
    const absl::Status read = out.ReadLine(line, vocabulary);
    if (!read.ok()) return At(LineName(number), read);
  }
  if (number == 0) return Refusal("no line");
  WEIR_RETURN_IF_ERROR(out.Seal());
  return out;
}

absl::Status RwkvVocabulary::ReadLine(std::string_view line,
                                      uint32_t vocabulary) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    return Refusal("not `index literal bytes`");
  }
  uint32_t id = 0;
  if (!absl::SimpleAtoi(View(line.substr(0, first)), &id)) {
    return Refusal("the index is no number");
  }
  if (ends_.empty()) first_id_ = id;
  if (first_id_ > 1) return Refusal("the first index is ", id, ", not 0 or 1");
  if (id != size()) return Refusal("index ", id, " where ", size(), " is next");
  if (id >= vocabulary) {
    return Refusal(
        "index ", id, " in a model with a vocabulary of ", vocabulary);
  }
  WEIR_ASSIGN_OR_RETURN(
      const std::string bytes,
      ParsePythonLiteral(line.substr(first + 1, last - first - 1)));
  size_t stated = 0;
  if (!absl::SimpleAtoi(View(line.substr(last + 1)), &stated)) {
    return Refusal("the length is no number");
  }
  if (bytes.empty() || bytes.size() > kTokenBytesMax) {
    return Refusal(
        "a token of ", bytes.size(), " bytes, 1 to ", kTokenBytesMax);
  }
  if (bytes.size() != stated) {
    return Refusal(
        "a token of ", bytes.size(), " bytes is said to have ", stated);
  }
  bytes_ += bytes;
  ends_.push_back(bytes_.size());
  return absl::OkStatus();
}

absl::Status RwkvVocabulary::Seal() {
  std::vector<ByteTrie::Entry> entries;
  absl::flat_hash_map<absl::string_view, uint32_t> seen;
  for (uint32_t n = 0; n < Count(); ++n) {
    entries.push_back({Line(n), first_id_ + n});
    const auto [earlier, added] = seen.emplace(View(Line(n)), n);
    if (added) continue;
    return At(LineName(n + 1),
              Refusal("the token of line ", earlier->second + 1, " again"));
  }
  trie_ = ByteTrie(std::move(entries));
  return absl::OkStatus();
}

std::string_view RwkvVocabulary::Line(uint32_t n) const {
  const size_t begin = n == 0 ? 0 : ends_[n - 1];
  return std::string_view(bytes_).substr(begin, ends_[n] - begin);
}

absl::Status RwkvVocabulary::Encode(std::string_view text,
                                    std::vector<uint32_t>& ids) const {
  for (size_t at = 0; at < text.size();) {
    const ByteTrie::Match match = trie_.Longest(text, at);
    if (match.bytes == 0) {
      return Refusal(
          "the vocabulary has no token for byte ", at, " of the text");
    }
    ids.push_back(match.value);
    at += match.bytes;
  }
  return absl::OkStatus();
}

std::string_view RwkvVocabulary::Bytes(uint32_t id) const {
  if (id < first_id_ || id >= size()) return {};
  return Line(id - first_id_);
}

}  // namespace weir::text
