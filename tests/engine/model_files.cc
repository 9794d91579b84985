// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model_files.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "gtest/gtest.h"
#include "tests/engine/source_path.h"

namespace weir::engine {

using nlohmann::json;

TempFolder::TempFolder() {
  std::string pattern = testing::TempDir() + "/weir_model_XXXXXX";
  WEIR_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = std::filesystem::canonical(pattern).string();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string ReadFileBytes(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return std::string((std::istreambuf_iterator<char>(stream)),
                     std::istreambuf_iterator<char>());
}

void WriteFileBytes(const std::string& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  EXPECT_TRUE(stream.good()) << path;
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  const uint64_t bytes = header.size();
  std::string out(sizeof(bytes), '\0');
  std::memcpy(out.data(), &bytes, sizeof(bytes));
  out.append(header).append(data);
  return out;
}

TensorFile TensorFile::Read(const std::string& path) {
  const std::string bytes = ReadFileBytes(path);
  uint64_t header_bytes = 0;
  WEIR_CHECK(bytes.size() > sizeof(header_bytes));
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const size_t data = sizeof(header_bytes) + header_bytes;
  const json header =
      json::parse(bytes.substr(sizeof(header_bytes), header_bytes));
  TensorFile out;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = entry["data_offsets"][0].get<size_t>();
    const size_t end = entry["data_offsets"][1].get<size_t>();
    out.tensors[name] = {.dtype = entry["dtype"].get<std::string>(),
                         .shape = entry["shape"].get<std::vector<int64_t>>(),
                         .bytes = bytes.substr(data + begin, end - begin)};
  }
  return out;
}

void TensorFile::Add(const std::string& name,
                     const std::vector<int64_t>& shape,
                     const std::vector<float>& values) {
  tensors[name] = {
      .dtype = "F32",
      .shape = shape,
      .bytes = std::string(reinterpret_cast<const char*>(values.data()),
                           values.size() * sizeof(float))};
}

void TensorFile::Write(const std::string& path) const {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {
        {"dtype", tensor.dtype},
        {"shape", tensor.shape},
        {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  WriteFileBytes(path, SafetensorsBytes(header.dump(), data));
}

std::vector<float> TensorFile::Floats(const std::string& name) const {
  const Tensor& tensor = tensors.at(name);
  WEIR_CHECK(tensor.dtype == "F32");
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

ModelCopy::ModelCopy(const std::string& relative)
    : ModelCopy(
          json::parse(ReadFileBytes(SourcePath(relative + "/config.json"))),
          TensorFile::Read(SourcePath(relative + "/model.safetensors"))) {}

ModelCopy::ModelCopy(json config, TensorFile weights)
    : config(std::move(config)), weights(std::move(weights)) {
  Write();
}

void ModelCopy::Write() const {
  WriteFileBytes(File("config.json"), config.dump());
  weights.Write(File("model.safetensors"));
}

}  // namespace weir::engine
