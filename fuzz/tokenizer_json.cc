// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as tokenizer.json; then what was read encodes a text and decodes
// it.
#include "text/tokenizer_json.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

constexpr uint32_t kVocabulary = 65536;
constexpr std::string_view kTexts[] = {
    "",
    "the cat's 12,345 caf\u00e9s \u4f60\u597d \U0001f600\n\n\tx  y<|end|>z",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "e\u0301\u0323 \u2581\u2581 <0x0A> <unk>"};

void Check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  auto read = weir::text::ParseTokenizerJson(file, kVocabulary);
  if (!read.ok()) return 0;
  const weir::text::Tokenizer tokenizer(*std::move(read));
  Check(tokenizer.size() <= kVocabulary);
  for (const std::string_view text : kTexts) {
    const auto ids = tokenizer.Encode(text);
    if (!ids.ok()) continue;
    weir::text::Decoder decoder(tokenizer, weir::text::Decoder::Place::kStart);
    std::string back;
    for (uint32_t id : *ids) {
      Check(id < tokenizer.size());
      back += decoder.Push(id);
    }
    back += decoder.Flush();
    Check(!weir::text::InvalidUtf8At(back));
  }
  return 0;
}
