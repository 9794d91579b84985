// SPDX-License-Identifier: Apache-2.0
#include "text/bpe_model.h"

#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "text/byte_alphabet.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

std::optional<uint32_t> Find(const BpeModel::Vocabulary& vocabulary,
                             std::string_view token) {
  const auto found = vocabulary.find(View(token));
  if (found == vocabulary.end()) return std::nullopt;
  return found->second;
}

std::string_view FirstCharacter(std::string_view token) {
  return token.substr(0, CodePointAt(token, 0).bytes);
}

std::string_view LastCharacter(std::string_view token) {
  return token.substr(CharacterBefore(token, token.size()));
}

// The merge of a line, its parts and its result by their ids.
absl::StatusOr<Merge> Resolve(const BpeModel::Vocabulary& vocabulary,
                              const std::string& left,
                              const std::string& right) {
  if (left.empty() || right.empty()) {
    return Refusal("joins nothing, which would go on for ever");
  }
  Merge merge;
  for (const auto& [part, id] :
       {std::pair(left, &merge.left), std::pair(right, &merge.right)}) {
    const std::optional<uint32_t> found = Find(vocabulary, part);
    if (!found) return Refusal("names ", Quoted(part), ", which is no token");
    *id = *found;
  }
  const std::optional<uint32_t> merged = Find(vocabulary, left + right);
  if (!merged) {
    return Refusal("makes ", Quoted(left + right), ", which is no token");
  }
  merge.merged = *merged;
  return merge;
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const Vocabulary& vocabulary,
                                          const NamedMerges& merges,
                                          const Options& options) {
  BpeModel out;
  out.options_ = options;
  out.ReadCharacters(vocabulary);
  std::vector<Merge> resolved;
  std::vector<Seam> seams;
  absl::flat_hash_set<std::pair<uint32_t, uint32_t>> seen, seen_seams;
  for (size_t n = 0; n < merges.size(); ++n) {
    const auto& [left, right] = merges[n];
    const auto merge = Resolve(vocabulary, left, right);
    if (!merge.ok()) return At(absl::StrCat("merge ", n), merge.status());
    if (!seen.emplace(merge->left, merge->right).second) {
      return Refusal("merge ", n, ": stands twice");
    }
    resolved.push_back(*merge);
    // A character without a token is never a symbol, so neither part of a seam.
    const auto end = Find(vocabulary, LastCharacter(left));
    const auto begin = Find(vocabulary, FirstCharacter(right));
    if (!end || !begin || !seen_seams.emplace(*end, *begin).second) continue;
    seams.push_back({*end, *begin});
  }
  out.merges_ = MergeTable(std::move(resolved), seams);
  return out;
}

void BpeModel::ReadCharacters(const Vocabulary& vocabulary) {
  low_.fill(kNone);
  fallback_.fill(kNone);
  for (const auto& [token, id] : vocabulary) {
    if (options_.ignore_merges) {
      const std::optional<std::string> bytes =
          options_.byte_level ? BytesOfCharacters(token) : token;
      if (bytes) words_.emplace(*bytes, id);
    }
    if (options_.byte_level || token.empty()) continue;
    const CodePoint point = CodePointAt(token, 0);
    if (point.bytes != token.size()) continue;
    if (point.value < low_.size()) {
      low_[point.value] = id;
    } else {
      high_.emplace(point.value, id);
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (options_.byte_level) {
      const auto b = static_cast<uint8_t>(byte);
      low_[byte] = Find(vocabulary, ByteCharacter(b)).value_or(kNone);
    }
    if (options_.byte_fallback) {
      constexpr const char* kDigits = "0123456789ABCDEF";
      const std::string name = {
          '<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
      fallback_[byte] = Find(vocabulary, name).value_or(kNone);
    }
  }
}

uint32_t BpeModel::Character(char32_t value) const {
  if (value < low_.size()) return low_[value];
  const auto found = high_.find(value);
  return found == high_.end() ? kNone : found->second;
}

// Whether all bytes of a character have tokens, which then stand for it.
bool BpeModel::FallBack(std::string_view character,
                        MergeTable::Word& symbols) const {
  if (!options_.byte_fallback) return false;
  for (char c : character) {
    if (fallback_[static_cast<uint8_t>(c)] == kNone) return false;
  }
  for (char c : character) {
    symbols.Add(fallback_[static_cast<uint8_t>(c)], false);
  }
  return true;
}

// The unknown token waits for the next character that has one, as in the
// original: what falls back to bytes does not end it.
absl::Status BpeModel::Encode(std::string_view word,
                              std::vector<uint32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const auto whole = words_.find(View(word)); whole != words_.end()) {
      ids.push_back(whole->second);
      return absl::OkStatus();
    }
  }
  MergeTable::Word symbols(merges_, ids);
  bool waiting = false;
  const auto flush = [&] {
    if (waiting) symbols.Add(*options_.unknown, false);
    waiting = false;
  };
  for (size_t at = 0; at < word.size();) {
    const auto byte = static_cast<uint8_t>(word[at]);
    CodePoint point = {byte, 1};
    if (!options_.byte_level) point = CodePointAt(word, at);
    const uint32_t id = Character(point.value);
    at += point.bytes;
    if (id != kNone) {
      flush();
      symbols.Add(id, true);
      continue;
    }
    const std::string_view character =
        options_.byte_level ? ByteCharacter(byte)
                            : word.substr(at - point.bytes, point.bytes);
    if (FallBack(character, symbols)) continue;
    if (!options_.unknown) {
      return Refusal("the tokenizer has no token for ", Quoted(character));
    }
    if (!options_.fuse_unknown) flush();
    waiting = true;
  }
  flush();
  symbols.Finish();
  return absl::OkStatus();
}

}  // namespace weir::text
