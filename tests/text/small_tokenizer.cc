// SPDX-License-Identifier: Apache-2.0
#include "tests/text/small_tokenizer.h"

#include <cstdio>
#include <cstdlib>

#include "text/byte_alphabet.h"
#include "text/tokenizer_json.h"

namespace weir::text {

using nlohmann::json;

json ByteLevelFile() {
  json file = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 260, "content": "<|end|>", "single_word": false,
      "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
      "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [], "pair": [],
      "special_tokens": {}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true,
      "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
      "continuing_subword_prefix": null, "end_of_word_suffix": null,
      "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
      "vocab": {},
      "merges": [["t", "h"], ["th", "e"], ["a", "a"], ["aa", "aa"]]}})");
  json& vocabulary = file["model"]["vocab"];
  for (unsigned byte = 0; byte < 256; ++byte) {
    vocabulary[std::string(ByteCharacter(static_cast<uint8_t>(byte)))] = byte;
  }
  unsigned next = 256;
  for (const char* token : {"th", "the", "aa", "aaaa"}) {
    vocabulary[token] = next++;
  }
  return file;
}

json SpaceLevelFile() {
  json file = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
      "fuse_unk": true, "vocab": {"<unk>": 0},
      "merges": ["\u2581 t", "h e", "\u2581t he"]}})");
  json& vocabulary = file["model"]["vocab"];
  unsigned next = 1;
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocabulary[name] = next++;
  }
  for (const char* token :
       {"\u2581", "t", "h", "e", "\u2581t", "he", "\u2581the"}) {
    vocabulary[token] = next++;
  }
  return file;
}

BpeTokenizer Parsed(const json& file) {
  auto tokenizer = ParseTokenizerJson(file.dump(), 65536);
  if (tokenizer.ok()) return *std::move(tokenizer);
  const std::string why = tokenizer.status().ToString();
  std::fprintf(stderr, "the tokenizer is refused: %s\n", why.c_str());
  std::abort();
}

std::string RefusalOf(const json& file, uint32_t vocabulary) {
  return std::string(
      ParseTokenizerJson(file.dump(), vocabulary).status().message());
}

}  // namespace weir::text
