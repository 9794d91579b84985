// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a safetensors file; then all that it claims to hold is read.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/model/safetensors.h"

namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

// A file in memory, with a path.
class MemoryFile {
 public:
  MemoryFile() : file_(memfd_create("input", MFD_CLOEXEC)) {
    Check(file_ >= 0);
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }
  void Set(const uint8_t* data, size_t size) {
    Check(ftruncate(file_, 0) == 0);
    Check(pwrite(file_, data, size, 0) == static_cast<ssize_t>(size));
  }

 private:
  const int file_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile memory;
  memory.Set(data, size);
  const auto file = weir::engine::SafetensorsFile::Open(memory.path());
  if (!file.ok()) return 0;
  size_t bytes = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    bytes += static_cast<size_t>(tensor.bytes);
    Check(tensor.offset >= 8);
    Check(tensor.offset + tensor.bytes <= static_cast<int64_t>(size));
    std::vector<float> values(static_cast<size_t>(tensor.elements));
    Check(file->Read(name, /*allow_nonfinite=*/true, values).ok());
    values.push_back(0);
    Check(!file->Read(name, /*allow_nonfinite=*/true, values).ok());
  }
  Check(bytes <= size);
  return 0;
}
