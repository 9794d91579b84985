// SPDX-License-Identifier: Apache-2.0
//
// What encoding costs on one core: bytes a second of mixed text for each kind
// of tokenizer, and of a mebibyte of one character, which must cost no more.
//
//   weir-tokenizer-bench FOLDERS    FOLDERS has a folder for each tokenizer, as
//                                   bench/tokenizer_folders.py writes them, and
//                                   a mixed.txt
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace weir::text {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLineBytes = size_t{1} << 20;
constexpr uint32_t kVocabulary = 1 << 20;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Encode(benchmark::State& state,
            const Tokenizer& tokenizer,
            const std::string& text) {
  size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = tokenizer.Encode(text);
    if (!ids.ok()) {
      state.SkipWithError(std::string(ids.status().message()).c_str());
      return;
    }
    tokens = ids->size();
    benchmark::DoNotOptimize(ids->data());
  }
  state.counters["mbytes_per_second"] =
      benchmark::Counter(static_cast<double>(text.size()) * 1e-6,
                         benchmark::Counter::kIsIterationInvariantRate);
  state.counters["tokens"] = static_cast<double>(tokens);
}

void Decode(benchmark::State& state,
            const Tokenizer& tokenizer,
            const std::string& text) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) return state.SkipWithError("cannot be encoded");
  for (auto _ : state) {
    Decoder decoder(tokenizer);
    size_t bytes = 0;
    for (uint32_t id : *ids) bytes += decoder.Push(id).size();
    benchmark::DoNotOptimize(bytes);
  }
  state.counters["mbytes_per_second"] =
      benchmark::Counter(static_cast<double>(text.size()) * 1e-6,
                         benchmark::Counter::kIsIterationInvariantRate);
}

void Register(const std::string& name,
              const Tokenizer& tokenizer,
              const std::string& mixed) {
  const auto measure = [&](const std::string& what, const std::string& text) {
    benchmark::RegisterBenchmark(
        (name + "_" + what).c_str(), Encode, tokenizer, text)
        ->Unit(benchmark::kMillisecond);
  };
  measure("mixed", mixed);
  measure("one_letter_line", std::string(kLineBytes, 'a'));
  measure("one_space_line", std::string(kLineBytes, ' '));
  std::string ideographs;
  while (ideographs.size() < kLineBytes) ideographs += "\u4e00";
  measure("one_ideograph_line", ideographs);
  benchmark::RegisterBenchmark(
      (name + "_decode_mixed").c_str(), Decode, tokenizer, mixed)
      ->Unit(benchmark::kMillisecond);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: weir-tokenizer-bench FOLDERS\n");
    return EXIT_FAILURE;
  }
  const fs::path folders = argv[1];
  const std::string mixed = ReadAll(folders / "mixed.txt");
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folders)) {
    if (entry.is_directory()) found.push_back(entry.path());
  }
  if (found.empty() || mixed.empty()) {
    std::fprintf(stderr, "weir-tokenizer-bench: nothing in %s\n", argv[1]);
    return EXIT_FAILURE;
  }
  Register("bytes", Tokenizer(), mixed);
  for (const fs::path& folder : found) {
    const auto tokenizer = LoadTokenizer(folder.string(), kVocabulary);
    if (!tokenizer.ok() || !tokenizer->has_value()) {
      const std::string why = tokenizer.status().ToString();
      std::fprintf(stderr, "weir-tokenizer-bench: %s\n", why.c_str());
      return EXIT_FAILURE;
    }
    Register(folder.filename().string(), **tokenizer, mixed);
  }
  benchmark::RunSpecifiedBenchmarks();
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace weir::text

// NOLINTNEXTLINE(bugprone-exception-escape): a measurement just ends.
int main(int argc, char** argv) { return weir::text::Main(argc, argv); }
