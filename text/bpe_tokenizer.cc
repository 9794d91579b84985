// SPDX-License-Identifier: Apache-2.0
#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {

absl::StatusOr<BpeTokenizer> BpeTokenizer::Create(Parts parts) {
  BpeTokenizer out;
  out.silent_.resize(parts.tokens.size());
  std::stable_partition(parts.added.begin(),
                        parts.added.end(),
                        [](const AddedToken& token) { return token.special; });
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (const AddedToken& token : parts.added) {
    if (token.special) out.silent_[token.id] = true;
    if (!token.normalized) {
      raw.push_back(token);
      continue;
    }
    std::string room;
    normalized.push_back(token);
    normalized.back().content = parts.normalizer.Run(token.content, room);
  }
  WEIR_ASSIGN_OR_RETURN(out.raw_, AddedTokens::Create(std::move(raw)));
  WEIR_ASSIGN_OR_RETURN(out.normalized_,
                        AddedTokens::Create(std::move(normalized)));
  for (const std::string& token : parts.tokens) {
    out.bytes_.push_back(parts.token_text.Render(token, false));
  }
  out.parts_ = std::move(parts);
  return out;
}

struct BpeTokenizer::Job {
  explicit Job(std::string_view whole_text, std::vector<uint32_t>& to)
      : whole(whole_text), ids(to), matcher(whole_text.size()) {}

  const std::string_view whole;
  std::vector<uint32_t>& ids;
  Matcher matcher;
  std::string normalized;
};

absl::Status BpeTokenizer::Encode(std::string_view text,
                                  std::vector<uint32_t>& ids) const {
  if (const std::optional<size_t> at = InvalidUtf8At(text)) {
    return Refusal("the text is not UTF-8 at byte ", *at);
  }
  Job job(text, ids);
  return raw_.Cut(text,
                  job.matcher,
                  [&](std::string_view piece, std::optional<uint32_t> id) {
                    if (!id) return EncodePiece(piece, job);
                    ids.push_back(*id);
                    return absl::OkStatus();
                  });
}

absl::Status BpeTokenizer::EncodePiece(std::string_view piece, Job& job) const {
  const bool at_start = piece.data() == job.whole.data();
  const std::string_view text = parts_.normalizer.Run(piece, job.normalized);
  const auto encode = [&](std::string_view word) {
    return parts_.model.Encode(word, job.ids);
  };
  return normalized_.Cut(
      text,
      job.matcher,
      [&](std::string_view part, std::optional<uint32_t> id) {
        if (id) {
          job.ids.push_back(*id);
          return absl::OkStatus();
        }
        return parts_.pre_tokenizer.Run(
            part, at_start && part.data() == text.data(), job.matcher, encode);
      });
}

std::string_view BpeTokenizer::Bytes(uint32_t id) const {
  if (id >= size() || silent_[id]) return {};
  return bytes_[id];
}

std::string BpeTokenizer::FirstBytes(uint32_t id) const {
  if (id >= size() || silent_[id]) return {};
  return parts_.token_text.Render(parts_.tokens[id], true);
}

}  // namespace weir::text
