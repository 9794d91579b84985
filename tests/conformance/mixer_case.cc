// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/mixer_case.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"
#include "gtest/gtest.h"
#include "tests/conformance/recurrence_case.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

int64_t Elements(const std::vector<int64_t>& shape) {
  return std::accumulate(
      shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// The same for the same name in every mixer, whatever else it has.
uint32_t SeedOf(const std::string& name) {
  uint32_t hash = 2166136261u;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  }
  return hash;
}

// Norms near one, token shares near a half, taps of some size, matrices that
// keep their input's size, all else standard normal.
std::vector<float> Draw(const WeightSlot& slot) {
  const std::vector<int64_t>& shape = slot.shape;
  float mean = 0;
  float deviation = 1;
  if (shape.size() == 1) {
    if (slot.name.find("norm") != std::string::npos &&
        slot.name.ends_with(".weight")) {
      mean = 1;
      deviation = 0.1F;
    }
  } else if (shape.size() == 3 && shape[0] == 1 && shape[1] == 1) {
    mean = 0.5F;
    deviation = 0.25F;
  } else if (shape.size() == 3 && shape[1] == 1) {
    deviation = 0.5F;
  } else {
    deviation = 1 / std::sqrt(static_cast<float>(shape.back()));
  }
  std::mt19937 random(SeedOf(slot.name));
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(static_cast<size_t>(Elements(shape)));
  for (float& value : values) value = normal(random);
  return values;
}

// Rounds to the nearest, ties to even.
uint16_t BFloat16Of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void AddTensor(const WeightSlot& slot,
               const std::vector<float>& values,
               WeightDtype dtype,
               TensorFile& file) {
  if (dtype == WeightDtype::kFloat32) {
    file.Add(slot.name, slot.shape, values);
    return;
  }
  TensorFile::Tensor tensor = {
      .dtype = "BF16", .shape = slot.shape, .bytes = {}};
  for (const float value : values) {
    const uint16_t rounded = BFloat16Of(value);
    tensor.bytes.push_back(static_cast<char>(rounded & 0xffu));
    tensor.bytes.push_back(static_cast<char>(rounded >> 8));
  }
  file.tensors[slot.name] = std::move(tensor);
}

}  // namespace

std::unique_ptr<MixerCase> MixerCase::Make(const MixerRow& row,
                                           WeightDtype dtype,
                                           const Edit& edit) {
  std::unique_ptr<MixerCase> out(new MixerCase);
  return out->Load(row, dtype, edit) ? std::move(out) : nullptr;
}

bool MixerCase::Load(const MixerRow& row, WeightDtype dtype, const Edit& edit) {
  auto spec = ParseConfig(row.config, "config.json");
  EXPECT_TRUE(spec.ok()) << row.name << ": " << spec.status();
  if (!spec.ok()) return false;
  spec_ = *std::move(spec);
  reading_ = row.reading;
  MakeParts();
  std::vector<WeightSlot> slots = spec_.shared;
  for (LayerPart& part : parts_) {
    for (WeightSlot& slot : part.Weights()) slots.push_back(std::move(slot));
  }
  TensorFile file;
  for (const WeightSlot& slot : slots) {
    std::vector<float> values = Draw(slot);
    if (edit != nullptr) edit(slot.name, values);
    AddTensor(slot, values, dtype, file);
  }
  const TempFolder folder;
  WriteFileBytes(folder.File("config.json"), row.config);
  file.Write(folder.File("model.safetensors"));
  auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << row.name << ": " << checkpoint.status();
  if (!checkpoint.ok()) return false;
  absl::Status status = CheckWeights(*checkpoint, slots, {});
  if (status.ok()) status = LoadWeights(*checkpoint, slots, false);
  EXPECT_TRUE(status.ok()) << row.name << ": " << status;
  if (!status.ok()) return false;
  for (LayerPart& part : parts_) part.mixer->Prepare();
  return true;
}

void MixerCase::MakeParts() {
  for (const WeightSlot& slot : spec_.shared) {
    tensors_.push_back({slot.name, slot.shape});
  }
  for (int32_t layer = 0; layer < spec_.layers; ++layer) {
    for (LayerPart& part : MakeLayer(spec_, layer)) {
      part.state = state_spec_.tensors.size();
      shared_floats_ = std::max(shared_floats_, part.mixer->shared_floats());
      const std::vector<StateTensor> state = part.mixer->State();
      if (!state.empty()) {
        for (const WeightSlot& slot : part.mixer->Weights()) {
          tensors_.push_back({part.prefix + slot.name, slot.shape});
        }
      }
      for (StateTensor tensor : state) {
        tensor.name = absl::StrCat("layers.", layer, ".", tensor.name);
        state_spec_.tensors.push_back(std::move(tensor));
      }
      parts_.push_back(std::move(part));
    }
  }
}

std::unique_ptr<StatePool> MixerCase::NewPool(int32_t slots) const {
  auto pool = StatePool::Create(state_spec_, {.slots = slots});
  WEIR_CHECK(pool.ok());
  for (int32_t slot = 0; slot < slots; ++slot) {
    WEIR_CHECK((*pool)->Acquire().ok());
  }
  return *std::move(pool);
}

std::vector<NamedValues> MixerCase::Run(StatePool& pool,
                                        const PassRows& rows,
                                        std::span<const float> x,
                                        Form form) const {
  WEIR_CHECK(rows.tokens.size() == rows.slots.size());
  std::vector<int32_t> starts = {0};
  Batch batch = {.rows = static_cast<int32_t>(rows.tokens.size()),
                 .form = form};
  for (const int32_t tokens : rows.tokens) {
    if (IsShortRow(tokens)) {
      WEIR_CHECK(form != Form::kByLength ||
                 batch.short_rows + 1 == static_cast<int32_t>(starts.size()));
      ++batch.short_rows;
    }
    starts.push_back(starts.back() + tokens);
  }
  batch.tokens = starts.back();
  batch.row_starts = starts.data();
  batch.slots = rows.slots.data();
  const auto floats = static_cast<size_t>(batch.tokens) * spec_.hidden;
  WEIR_CHECK(x.size() == floats);

  std::vector<NamedValues> outputs;
  std::vector<float> shared(static_cast<size_t>(batch.tokens * shared_floats_),
                            kNan);
  std::vector<float> workspace;
  for (const LayerPart& part : parts_) {
    if (part.mixer->State().empty()) continue;
    workspace.assign(
        static_cast<size_t>(batch.tokens * part.mixer->workspace_floats()),
        kNan);
    NamedValues out = {.name = part.prefix,
                       .values = std::vector<float>(floats, kNan)};
    part.mixer->Forward({.batch = &batch,
                         .x = x.data(),
                         .state = {.pool = &pool, .first = part.state},
                         .shared = shared.data()},
                        workspace.data(),
                        out.values.data());
    outputs.push_back(std::move(out));
  }
  return outputs;
}

std::vector<NamedValues> MixerCase::State(const StatePool& pool,
                                          int32_t slot) const {
  std::vector<NamedValues> tensors;
  for (size_t i = 0; i < state_spec_.tensors.size(); ++i) {
    const StateTensor& tensor = state_spec_.tensors[i];
    const float* from = pool.base(i) + slot * pool.stride(i);
    std::vector<float> values(from, from + tensor.elements());
    if (tensor.name.ends_with(".rest")) {
      // What the state before it rounded away: the two are one number.
      std::vector<float>& state = tensors.back().values;
      for (size_t j = 0; j < state.size(); ++j) state[j] += values[j];
      continue;
    }
    tensors.push_back({.name = tensor.name, .values = std::move(values)});
  }
  if (reading_ != nullptr) reading_(tensors);
  return tensors;
}

std::vector<float> RandomTokens(int64_t tokens, int32_t hidden, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * hidden));
  for (float& value : x) value = normal(random);
  return x;
}

std::vector<NamedValues> TokensOf(const std::vector<NamedValues>& outputs,
                                  int32_t hidden,
                                  int64_t begin,
                                  int64_t end) {
  std::vector<NamedValues> out;
  for (const NamedValues& part : outputs) {
    out.push_back(
        {.name = part.name,
         .values = std::vector<float>(part.values.begin() + begin * hidden,
                                      part.values.begin() + end * hidden)});
  }
  return out;
}

void ExpectNear(const std::vector<NamedValues>& got,
                const std::vector<NamedValues>& want,
                double rmse_max) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].values.size(), want[i].values.size());
    EXPECT_LE(RelativeRmse(got[i].values, want[i].values), rmse_max)
        << got[i].name;
  }
}

void ExpectBitEqual(const std::vector<NamedValues>& got,
                    const std::vector<NamedValues>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(BitEqual(got[i].values, want[i].values))
        << got[i].name << " differs by a relative RMSE of "
        << RelativeRmse(got[i].values, want[i].values);
  }
}

void ExpectFinite(const std::vector<NamedValues>& got) {
  for (const NamedValues& part : got) {
    EXPECT_TRUE(std::all_of(part.values.begin(),
                            part.values.end(),
                            [](float x) { return std::isfinite(x); }))
        << part.name << " is not finite";
  }
}

const char* FormName(Form form) {
  switch (form) {
    case Form::kByLength:
      return "by length";
    case Form::kRecurrent:
      return "recurrent form";
    case Form::kChunk:
      return "chunk form";
    case Form::kReference:
      return "reference";
  }
  return "unknown form";
}

std::string CaseName(const MixerRow& row, WeightDtype dtype) {
  return absl::StrCat(row.name, "_", WeightDtypeName(dtype));
}

}  // namespace weir::engine
