// SPDX-License-Identifier: Apache-2.0
//
// Reads one safetensors file, trusting nothing in it: the header is bounded,
// strict JSON, and its tensors tile the data exactly. Data is read with pread,
// so that a file cut short while it is read is an error and not a signal.
//
// Errors are INVALID_ARGUMENT (DATA_LOSS for TRUNCATED and IO); their message
// begins with one word that stays the same, the file, and the tensor:
// HEADER_SIZE, HEADER_JSON, METADATA, SHAPE, DTYPE, OFFSETS, WRONG_SHAPE,
// MISSING_TENSOR, NON_FINITE, TRUNCATED, IO.
//
// Threads: a const file may be read by many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weir::engine {

enum class WeightDtype { kFloat32, kBFloat16, kFloat16 };

// "f32", "bf16", "f16".
const char* WeightDtypeName(WeightDtype dtype);

struct TensorInfo {
  WeightDtype dtype = WeightDtype::kFloat32;
  std::vector<int64_t> shape;
  int64_t elements = 0;
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
};

// "[2, 3]".
std::string ShapeText(std::span<const int64_t> shape);

// A file descriptor that closes itself.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }

 private:
  int fd_;
};

// Opens a regular file to read; anything else (a folder, a pipe) is IO.
absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path);
// Reads `out` from `offset` on. TRUNCATED if the file ends before.
absl::Status ReadFully(const FileDescriptor& file,
                       const std::string& path,
                       int64_t offset,
                       std::span<std::byte> out);
// All of a file of at most `bytes_max`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          int64_t bytes_max);

class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }

  // The tensor's values as fp32, row-major. WRONG_SHAPE unless `out` has its
  // number of elements; NON_FINITE for a NaN or an infinity unless allowed.
  absl::Status Read(const std::string& name,
                    bool allow_nonfinite,
                    std::span<float> out) const;

 private:
  SafetensorsFile() = default;

  std::string path_;
  FileDescriptor file_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace weir::engine
