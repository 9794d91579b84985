// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <cstdint>
#include <map>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/config/strict_json.h"

namespace weir::engine {
namespace {

absl::Status Bad(const char* word,
                 const Checkpoint& checkpoint,
                 const std::string& name,
                 const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(
      word, ": ", checkpoint.folder(), ": tensor ", Quoted(name), ": ", what));
}

absl::Status CheckShape(const Checkpoint& checkpoint,
                        const std::string& name,
                        const std::vector<int64_t>& expected) {
  const std::vector<int64_t>& actual = checkpoint.Find(name)->shape;
  if (actual == expected) return absl::OkStatus();
  return Bad("WRONG_SHAPE",
             checkpoint,
             name,
             absl::StrCat("is ",
                          ShapeText(actual),
                          "; the configuration asks ",
                          "for ",
                          ShapeText(expected)));
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements;
}

}  // namespace

absl::Status CheckWeights(const Checkpoint& checkpoint,
                          const std::vector<WeightSlot>& slots,
                          const std::vector<UnusedTensor>& unused) {
  std::map<std::string, const std::vector<int64_t>*> known;
  for (const WeightSlot& slot : slots) known[slot.name] = &slot.shape;
  for (const UnusedTensor& tensor : unused) known[tensor.name] = &tensor.shape;

  for (const WeightSlot& slot : slots) {
    if (checkpoint.Find(slot.name) == nullptr) {
      return Bad("MISSING_TENSOR",
                 checkpoint,
                 slot.name,
                 absl::StrCat("is missing; the configuration asks for ",
                              ShapeText(slot.shape)));
    }
  }
  for (const std::string& name : checkpoint.names()) {
    const auto it = known.find(name);
    if (it == known.end()) {
      return Bad("EXTRA_TENSOR",
                 checkpoint,
                 name,
                 "has no place in the model of the configuration");
    }
    WEIR_RETURN_IF_ERROR(CheckShape(checkpoint, name, *it->second));
  }
  return absl::OkStatus();
}

absl::Status LoadWeights(const Checkpoint& checkpoint,
                         const std::vector<WeightSlot>& slots,
                         bool allow_nonfinite) {
  std::vector<float> taps;
  for (const WeightSlot& slot : slots) {
    WEIR_RETURN_IF_ERROR(slot.buffer->Allocate());
    float* to = slot.buffer->data() + slot.offset;
    const int64_t elements = Elements(slot.shape);
    if (slot.taps_pitch == 0) {
      WEIR_RETURN_IF_ERROR(
          checkpoint.Read(slot.name,
                          allow_nonfinite,
                          std::span<float>(to, static_cast<size_t>(elements))));
      continue;
    }
    taps.resize(static_cast<size_t>(elements));
    WEIR_RETURN_IF_ERROR(
        checkpoint.Read(slot.name, allow_nonfinite, std::span<float>(taps)));
    const int64_t width = slot.shape.back();
    for (int64_t i = 0; i < elements; ++i) {
      to[i % width * slot.taps_pitch + i / width] = taps[i];
    }
  }
  return absl::OkStatus();
}

}  // namespace weir::engine
