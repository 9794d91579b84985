// SPDX-License-Identifier: Apache-2.0
//
// Makes model folders for tests, good ones and hostile ones.
//
// Threads: none.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"

namespace weir::engine {

// A folder that is deleted with its contents.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string ReadFileBytes(const std::string& path);
void WriteFileBytes(const std::string& path, std::string_view bytes);

// A safetensors file: the length of `header`, the header, the data.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

// The tensors of a well-formed file, to be changed and written again.
struct TensorFile {
  struct Tensor {
    std::string dtype = "F32";
    std::vector<int64_t> shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors;

  static TensorFile Read(const std::string& path);
  void Add(const std::string& name,
           const std::vector<int64_t>& shape,
           const std::vector<float>& values);
  void Write(const std::string& path) const;
  std::vector<float> Floats(const std::string& name) const;  // of F32
};

// A small model in a temporary folder: a copy of one of the source tree, or of
// what a test made.
class ModelCopy {
 public:
  explicit ModelCopy(const std::string& relative);
  ModelCopy(nlohmann::json config, TensorFile weights);

  const std::string& path() const { return folder_.path(); }
  std::string File(const std::string& name) const { return folder_.File(name); }
  // Writes `config` and `weights` to the folder.
  void Write() const;

  nlohmann::json config;
  TensorFile weights;

 private:
  TempFolder folder_;
};

}  // namespace weir::engine
