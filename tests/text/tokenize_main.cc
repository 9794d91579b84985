// SPDX-License-Identifier: Apache-2.0
//
// Encodes and decodes texts for tests/text/parity.py, which compares them with
// what other tokenizers give. A frame is a 32-bit length and so many bytes, of
// this machine's byte order.
//
//   weir-tokenize FOLDER VOCABULARY   a frame of text in; out a frame of 32-bit
//                                     ids and one of their text, or an empty
//                                     frame and one of why it was refused
//   weir-tokenize --nfc               a frame of text in, its NFC out
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "text/nfc.h"
#include "text/tokenizer.h"

namespace weir::text {
namespace {

std::optional<std::string> ReadFrame() {
  uint32_t bytes = 0;
  if (std::fread(&bytes, sizeof(bytes), 1, stdin) != 1) return std::nullopt;
  std::string frame(bytes, '\0');
  if (std::fread(frame.data(), 1, bytes, stdin) != bytes) return std::nullopt;
  return frame;
}

void WriteFrame(std::string_view frame) {
  const auto bytes = static_cast<uint32_t>(frame.size());
  std::fwrite(&bytes, sizeof(bytes), 1, stdout);
  // An empty view may hold no address, which fwrite does not take.
  if (!frame.empty()) std::fwrite(frame.data(), 1, frame.size(), stdout);
}

void Answer(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) {
    WriteFrame({});
    const std::string why(ids.status().message());
    return WriteFrame(why);
  }
  WriteFrame({reinterpret_cast<const char*>(ids->data()),
              ids->size() * sizeof(uint32_t)});
  Decoder decoder(tokenizer, Decoder::Place::kStart);
  std::string back;
  for (uint32_t id : *ids) back += decoder.Push(id);
  WriteFrame(back + decoder.Flush());
}

int Main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--nfc") == 0) {
    while (const auto text = ReadFrame()) WriteFrame(ToNfc(*text));
    return EXIT_SUCCESS;
  }
  if (argc != 3) return EXIT_FAILURE;
  const auto tokenizer = LoadTokenizer(
      argv[1], static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)));
  if (!tokenizer.ok()) {
    const std::string why(tokenizer.status().message());
    std::fprintf(stderr, "weir-tokenize: %s\n", why.c_str());
    return EXIT_FAILURE;
  }
  if (!tokenizer->has_value()) return EXIT_FAILURE;
  while (const auto text = ReadFrame()) Answer(**tokenizer, *text);
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace weir::text

int main(int argc, char** argv) { return weir::text::Main(argc, argv); }
