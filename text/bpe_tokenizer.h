// SPDX-License-Identifier: Apache-2.0
//
// Byte-pair encoding as tokenizer.json of Hugging Face describes it. Its parts
// are followed in this order: added tokens, normalizer, added tokens that are
// looked for in normalised text, pre-tokenizer, merges; and back by the
// decoder.
//
// What it would add to a text of its own is not added: the post-processor's
// tokens (a session is a stream, and begins once), truncation and padding.
//
// Threads: constant after construction; used from any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_text.h"

namespace weir::text {

class BpeTokenizer {
 public:
  struct Parts {
    // Each id's token, added ones too, as the file writes it.
    std::vector<std::string> tokens;
    std::vector<AddedToken> added;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    BpeModel model;
    TokenText token_text;
  };

  static absl::StatusOr<BpeTokenizer> Create(Parts parts);

  // Appends the ids of `text`. INVALID_ARGUMENT if it is not UTF-8, has a
  // character without a token, or takes a regular expression too long.
  absl::Status Encode(std::string_view text, std::vector<uint32_t>& ids) const;

  // The bytes of a token; empty for ids without text, as those of special
  // tokens. FirstBytes: where the token begins a text.
  std::string_view Bytes(uint32_t id) const;
  std::string FirstBytes(uint32_t id) const;
  // What is to be taken from the front of a text.
  const StripStep& strip() const { return parts_.token_text.whole; }

  uint32_t size() const { return static_cast<uint32_t>(parts_.tokens.size()); }

 private:
  struct Job;
  absl::Status EncodePiece(std::string_view piece, Job& job) const;

  Parts parts_;
  AddedTokens raw_;
  AddedTokens normalized_;
  std::vector<bool> silent_;        // by id: special
  std::vector<std::string> bytes_;  // by id
};

}  // namespace weir::text
