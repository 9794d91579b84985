// SPDX-License-Identifier: Apache-2.0
//
// A model folder: config.json and the weights, in model.safetensors or in the
// shards that model.safetensors.index.json names. If the folder has a
// SHA256SUMS, every file listed there must match it.
//
// No file outside the folder is read, whatever a name or a link in it says,
// and there is no reader for pickle, GGUF or ONNX.
//
// Errors are as in safetensors.h, and further INDEX, INTEGRITY, FORMAT,
// EXTRA_TENSOR.
//
// Threads: a const checkpoint may be read by many.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/safetensors.h"

namespace weir::engine {

class Checkpoint {
 public:
  // INVALID_ARGUMENT, NOT_FOUND or DATA_LOSS, naming the file.
  static absl::StatusOr<Checkpoint> Open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  // The text of config.json.
  const std::string& config() const { return config_; }
  // Whether the folder has a tokenizer's file.
  bool has_tokenizer() const { return has_tokenizer_; }

  const TensorInfo* Find(const std::string& name) const;
  // All tensors' names, sorted.
  std::vector<std::string> names() const;
  // As SafetensorsFile::Read.
  absl::Status Read(const std::string& name,
                    bool allow_nonfinite,
                    std::span<float> out) const;

 private:
  Checkpoint() = default;

  absl::Status OpenShards(const std::string& index_path);

  std::string folder_;
  std::string config_;
  bool has_tokenizer_ = false;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;  // by tensor
};

}  // namespace weir::engine
