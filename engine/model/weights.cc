// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <algorithm>
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

// Where value i of a convolution's taps goes first.
int64_t TapPlace(const WeightSlot& slot, int64_t i) {
  const int64_t width = slot.shape.back();
  const int64_t channel = i / width;
  return i % width * slot.taps_pitch +
         channel / slot.block * slot.copies * slot.block + channel % slot.block;
}

// Spreads the blocks that lie at the beginning of `values`, from the last on,
// so that none is written over before it has been copied.
void Spread(const WeightSlot& slot, int64_t elements, float* values) {
  const int64_t size = elements / slot.shape.front() * slot.block;
  for (int64_t b = slot.shape.front() / slot.block - 1; b >= 0; --b) {
    for (int64_t copy = slot.copies - 1; copy >= 0; --copy) {
      if (b + copy == 0) continue;
      std::copy_n(
          values + b * size, size, values + (b * slot.copies + copy) * size);
    }
  }
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
      if (slot.copies > 1) Spread(slot, elements, to);
      continue;
    }
    taps.resize(static_cast<size_t>(elements));
    WEIR_RETURN_IF_ERROR(
        checkpoint.Read(slot.name, allow_nonfinite, std::span<float>(taps)));
    for (int64_t i = 0; i < elements; ++i) {
      for (int64_t copy = 0; copy < slot.copies; ++copy) {
        to[TapPlace(slot, i) + copy * slot.block] = taps[i];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace weir::engine
