// SPDX-License-Identifier: Apache-2.0
//
// A model's tokenizer, of whichever kind: text to token ids and back.
//
// It adds no token of its own, at neither end of a text. A text is encoded by
// itself: where a kind treats a text's beginning apart (BPE that puts a space
// before it), every appended text has a beginning.
//
// Threads: a Tokenizer is constant and cheap to copy, and any thread may use
// it; a Decoder belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "text/bpe_tokenizer.h"
#include "text/rwkv_vocabulary.h"
#include "text/utf8_stream.h"

namespace weir::text {

class Tokenizer {
 public:
  // Ids are bytes.
  Tokenizer() = default;
  explicit Tokenizer(RwkvVocabulary vocabulary);
  explicit Tokenizer(BpeTokenizer bpe);

  // The ids of `text`; none for an empty one. INVALID_ARGUMENT if the tokenizer
  // has no tokens for a part of it, if it is not UTF-8 and this is BPE, or if
  // it takes a regular expression of the tokenizer too long. Otherwise the time
  // is linear in the text's bytes.
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) const;

  // The bytes of a token; empty for ids that have none: unknown, special, the
  // end of a text. Valid as long as a copy of this tokenizer.
  std::string_view Bytes(uint32_t id) const;

  uint32_t size() const;     // one more than the highest id
  const char* kind() const;  // "bytes", "rwkv", "bpe"

 private:
  friend class Decoder;
  struct ByteIds {};
  std::variant<ByteIds,
               std::shared_ptr<const RwkvVocabulary>,
               std::shared_ptr<const BpeTokenizer>>
      kind_;
};

// The text of ids as they come: valid UTF-8 whatever they are, and the same
// however they were split. An unfinished character is held back; bytes that are
// none become U+FFFD, one for each maximal stretch. A token without text breaks
// off the character before it.
class Decoder {
 public:
  enum class Place {
    kStart,     // the ids begin a text: what its tokenizer put there is removed
    kContinue,  // the ids go on after others
  };

  explicit Decoder(Tokenizer tokenizer, Place place = Place::kContinue);

  // Adds a token; returns the text that is complete.
  std::string Push(uint32_t id);
  // Ends the text; returns what is left.
  std::string Flush();

 private:
  std::string_view Trim(std::string_view bytes);

  Tokenizer tokenizer_;
  bool first_;       // the next token is the first of a text
  StripStep strip_;  // what may still be taken from the front
  std::string room_;
  Utf8Stream stream_;
};

// The tokenizer of a model's folder, for a model whose ids are below
// `vocabulary`: tokenizer.json, else rwkv_vocab_*.txt, else none, where the ids
// of a vocabulary of at least 256 are bytes. nullopt where text has no ids: the
// folder has a tokenizer of another format, or the vocabulary is smaller.
//
// INVALID_ARGUMENT with the file and what is wrong: larger than 64 MiB, no
// regular file, outside the folder, or refused by its reader.
absl::StatusOr<std::optional<Tokenizer>> LoadTokenizer(
    const std::string& folder, uint32_t vocabulary);

}  // namespace weir::text
