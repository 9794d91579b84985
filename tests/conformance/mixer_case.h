// SPDX-License-Identifier: Apache-2.0
//
// A mixer of the registry as the server has it: its config.json read by the
// loader, its tensors written to a folder and read back, its state in a pool.
//
// A mixer takes part in the suite by one row of the table in mixer_rows.cc;
// what the row does not say follows from the registry. Each part of a decoder
// that holds a state (the mixer, and RWKV's feed-forward part) is fed the same
// input, and not the output of the part before it, so that a difference is that
// of one part.
//
// Threads: as mixer.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/model/layer.h"
#include "engine/model/safetensors.h"
#include "engine/state/state_pool.h"

namespace weir::engine {

// One tensor of a state, or one part's output.
struct NamedValues {
  std::string name;
  std::vector<float> values;
};

// Brings a state's tensors to a form in which equal states are equal numbers.
using StateReading = void (*)(std::vector<NamedValues>& tensors);

struct MixerRow {
  const char* name;    // of the tests: letters and digits
  std::string config;  // config.json
  // For mixers that can hold one state in several ways.
  StateReading reading = nullptr;
};

std::span<const MixerRow> MixerRows();

// A tensor of the checkpoint.
struct MixerTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// The rows of one pass.
struct PassRows {
  std::vector<int32_t> tokens;  // of each row
  std::vector<int32_t> slots;   // -1: padding
};

class MixerCase {
 public:
  // Changes a tensor of the checkpoint before it is written.
  using Edit =
      std::function<void(const std::string& name, std::vector<float>& values)>;

  // Weights drawn by their names and shapes, stored as `dtype`. Null after a
  // failure that it reports.
  static std::unique_ptr<MixerCase> Make(const MixerRow& row,
                                         WeightDtype dtype,
                                         const Edit& edit = nullptr);

  int32_t hidden() const { return spec_.hidden; }
  const DecoderSpec& spec() const { return spec_; }
  // Of the parts that hold a state, by their full names in the checkpoint.
  const std::vector<MixerTensor>& tensors() const { return tensors_; }

  // All slots held and fresh.
  std::unique_ptr<StatePool> NewPool(int32_t slots) const;

  // Feeds x [tokens, hidden] to the states of the rows' slots. The workspace
  // and the outputs are NaN before. One output a part, [tokens, hidden].
  // REQUIRES: by length, rows of fewer than kChunkTokensMin stand first.
  std::vector<NamedValues> Run(StatePool& pool,
                               const PassRows& rows,
                               std::span<const float> x,
                               Form form) const;

  // By tensor, through the row's reading.
  std::vector<NamedValues> State(const StatePool& pool, int32_t slot) const;

 private:
  MixerCase() = default;

  void MakeParts();
  bool Load(const MixerRow& row, WeightDtype dtype, const Edit& edit);

  DecoderSpec spec_;
  StateReading reading_ = nullptr;
  std::vector<LayerPart> parts_;  // all, those without a state too
  StateSpec state_spec_;
  std::vector<MixerTensor> tensors_;
  int64_t shared_floats_ = 0;
};

// Standard normal, [tokens, hidden].
std::vector<float> RandomTokens(int64_t tokens, int32_t hidden, uint32_t seed);

// What tokens [begin, end) of the outputs are.
std::vector<NamedValues> TokensOf(const std::vector<NamedValues>& outputs,
                                  int32_t hidden,
                                  int64_t begin,
                                  int64_t end);

// Each tensor within `rmse_max` of the one it should be, by relative RMSE.
void ExpectNear(const std::vector<NamedValues>& got,
                const std::vector<NamedValues>& want,
                double rmse_max);
void ExpectBitEqual(const std::vector<NamedValues>& got,
                    const std::vector<NamedValues>& want);
void ExpectFinite(const std::vector<NamedValues>& got);

// "chunk form".
const char* FormName(Form form);
// "GatedDeltaNet_bf16".
std::string CaseName(const MixerRow& row, WeightDtype dtype);

}  // namespace weir::engine
