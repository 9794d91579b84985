// SPDX-License-Identifier: Apache-2.0
#include "tests/golden/golden_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace weir::golden {
namespace {

using nlohmann::json;

template <typename Stored, typename Out>
void ReadTensor(const json& header,
                const std::string& file,
                const std::string& name,
                std::vector<Out>& out) {
  if (!header.contains(name)) return;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const size_t data = sizeof(header_bytes) + header_bytes;
  const json& offsets = header[name]["data_offsets"];
  const size_t begin = offsets[0].get<size_t>();
  const size_t count = (offsets[1].get<size_t>() - begin) / sizeof(Stored);
  std::vector<Stored> stored(count);
  std::memcpy(
      stored.data(), file.data() + data + begin, count * sizeof(Stored));
  out.assign(stored.begin(), stored.end());
}

}  // namespace

double Golden::LogProbability(size_t row, uint32_t token) const {
  const float* begin = logits.data() + row * static_cast<size_t>(vocabulary);
  const double high = *std::max_element(begin, begin + vocabulary);
  double sum = 0;
  for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(begin[i] - high);
  return begin[token] - high - std::log(sum);
}

std::vector<std::string> GoldenFolders(const std::string& root) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Golden ReadGolden(const std::string& path) {
  Golden golden;
  std::ifstream stream(path, std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    ADD_FAILURE() << path << " is missing or empty";
    return golden;
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const json header =
      json::parse(file.substr(sizeof(header_bytes), header_bytes),
                  /*cb=*/nullptr,
                  /*allow_exceptions=*/false);
  if (!header.contains("tokens") || !header.contains("logits")) {
    ADD_FAILURE() << path << " holds no tokens and logits";
    return golden;
  }
  ReadTensor<int32_t>(header, file, "tokens", golden.tokens);
  ReadTensor<float>(header, file, "logits", golden.logits);
  ReadTensor<int32_t>(header, file, "positions", golden.positions);
  ReadTensor<int32_t>(header, file, "greedy", golden.greedy);
  ReadTensor<float>(header, file, "greedy_margin", golden.greedy_margin);
  golden.vocabulary = header["logits"]["shape"][1].get<int64_t>();
  const size_t rows =
      golden.logits.size() / static_cast<size_t>(golden.vocabulary);
  for (size_t i = golden.positions.size(); i < rows; ++i) {
    golden.positions.push_back(static_cast<int64_t>(i));
  }
  return golden;
}

}  // namespace weir::golden
