// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as config.json, through the families to a model without weights:
// what is taken has sizes that fit, and takes no memory for its tensors.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/layer.h"
#include "engine/model/model.h"
#include "engine/state/state_spec.h"

namespace {

using weir::engine::DecoderSpec;

void Check(bool holds) {
  if (!holds) std::abort();
}

// The product of a tensor's extents fits, with room for sums of many.
void CheckShape(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) {
    Check(extent > 0);
    Check(!__builtin_mul_overflow(elements, extent, &elements));
  }
  Check(elements <= int64_t{1} << 48);
}

void CheckLayer(const DecoderSpec& spec, int32_t index) {
  for (weir::engine::LayerPart& part : MakeLayer(spec, index)) {
    for (const auto& slot : part.Weights()) {
      Check(!slot.name.empty());
      CheckShape(slot.shape);
    }
    for (const auto& tensor : part.mixer->State()) CheckShape(tensor.shape);
    Check(part.mixer->workspace_floats() >= 0);
    Check(part.mixer->workspace_floats() <= int64_t{1} << 40);
  }
}

// A folder with a file of no tensors, in TMPDIR where that is set. It is
// deleted at the end of the process, unless libFuzzer ends that at once, as it
// does when it has found something: then run.sh deletes it.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path().string() +
              "/weir-fuzz-XXXXXX") {
    Check(mkdtemp(path_.data()) != nullptr);
    Write("model.safetensors", std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  void Write(const std::string& name, std::string_view bytes) const {
    std::ofstream file(path_ + "/" + name, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto spec = weir::engine::ParseConfig(text, "config.json");
  if (!spec.ok()) {
    Check(spec.status().message().find("CONFIG: ") == 0);
    return 0;
  }
  Check(spec->layers > 0 && spec->hidden > 0 && spec->vocabulary > 0);
  Check(!spec->start_token || *spec->start_token < uint32_t(spec->vocabulary));
  CheckLayer(*spec, 0);
  CheckLayer(*spec, spec->layers - 1);
  static const Folder folder;
  folder.Write("config.json", text);
  Check(!weir::engine::Model::Inspect(folder.path()).ok());
  return 0;
}
