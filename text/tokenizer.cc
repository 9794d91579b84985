// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <array>
#include <utility>

#include "base/status_macros.h"
#include "text/byte_tokens.h"

namespace weir::text {
namespace {

using Rwkv = std::shared_ptr<const RwkvVocabulary>;
using Bpe = std::shared_ptr<const BpeTokenizer>;

constexpr uint32_t kBytes = 256;

std::string_view OneByte(uint32_t id) {
  static const auto* const bytes = [] {
    auto* all = new std::array<char, kBytes>;
    for (uint32_t byte = 0; byte < kBytes; ++byte) {
      (*all)[byte] = static_cast<char>(byte);
    }
    return all;
  }();
  if (!TokenToByte(id)) return {};
  return {bytes->data() + id, 1};
}

}  // namespace

Tokenizer::Tokenizer(RwkvVocabulary vocabulary)
    : kind_(std::make_shared<const RwkvVocabulary>(std::move(vocabulary))) {}

Tokenizer::Tokenizer(BpeTokenizer bpe)
    : kind_(std::make_shared<const BpeTokenizer>(std::move(bpe))) {}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(
    std::string_view text) const {
  std::vector<uint32_t> ids;
  if (const Rwkv* rwkv = std::get_if<Rwkv>(&kind_)) {
    WEIR_RETURN_IF_ERROR((*rwkv)->Encode(text, ids));
  } else if (const Bpe* bpe = std::get_if<Bpe>(&kind_)) {
    WEIR_RETURN_IF_ERROR((*bpe)->Encode(text, ids));
  } else {
    ids = BytesToTokens(text);
  }
  return ids;
}

std::string_view Tokenizer::Bytes(uint32_t id) const {
  if (const Rwkv* rwkv = std::get_if<Rwkv>(&kind_)) return (*rwkv)->Bytes(id);
  if (const Bpe* bpe = std::get_if<Bpe>(&kind_)) return (*bpe)->Bytes(id);
  return OneByte(id);
}

uint32_t Tokenizer::size() const {
  if (const Rwkv* rwkv = std::get_if<Rwkv>(&kind_)) return (*rwkv)->size();
  if (const Bpe* bpe = std::get_if<Bpe>(&kind_)) return (*bpe)->size();
  return kBytes;
}

const char* Tokenizer::kind() const {
  if (std::holds_alternative<Rwkv>(kind_)) return "rwkv";
  return std::holds_alternative<Bpe>(kind_) ? "bpe" : "bytes";
}

Decoder::Decoder(Tokenizer tokenizer, Place place)
    : tokenizer_(std::move(tokenizer)), first_(false) {
  const Bpe* bpe = std::get_if<Bpe>(&tokenizer_.kind_);
  if (bpe == nullptr || place != Place::kStart) return;
  first_ = true;
  strip_ = (*bpe)->strip();
}

std::string Decoder::Push(uint32_t id) {
  std::string text;
  std::string_view bytes = tokenizer_.Bytes(id);
  if (bytes.empty()) {
    stream_.Flush(text);
    return text;
  }
  if (std::exchange(first_, false)) {
    room_ = std::get<Bpe>(tokenizer_.kind_)->FirstBytes(id);
    bytes = room_;
  }
  for (char c : Trim(bytes)) stream_.Push(static_cast<uint8_t>(c), text);
  return text;
}

std::string Decoder::Flush() {
  std::string text;
  stream_.Flush(text);
  return text;
}

std::string_view Decoder::Trim(std::string_view bytes) {
  while (strip_.start > 0 && !bytes.empty()) {
    if (!bytes.starts_with(strip_.character)) {
      strip_.start = 0;
      break;
    }
    bytes.remove_prefix(strip_.character.size());
    --strip_.start;
  }
  return bytes;
}

}  // namespace weir::text
