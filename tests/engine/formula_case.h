// SPDX-License-Identifier: Apache-2.0
//
// A mixer of a configuration, with seeded random weights, against the same
// formulas written anew in fp64: alone, and as the layers of a whole model.
//
// Threads: none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model_files.h"
#include "tests/engine/reference_mixer.h"

namespace weir::engine {

// Changes what was drawn for a tensor.
using WeightEdit =
    std::function<void(const std::string& name, std::vector<float>& values)>;

// A configuration and what its mixer computes, anew.
struct Formula {
  std::string name;  // of the tests: letters, digits and "_"
  nlohmann::json config;
  std::function<std::unique_ptr<ReferenceMixer>(const ReferenceLayer& layer)>
      reference;
  WeightEdit edit = nullptr;
};

template <typename Reference>
Formula FormulaOf(const std::string& name,
                  const nlohmann::json& config,
                  const WeightEdit& edit = nullptr) {
  return {.name = name,
          .config = config,
          .reference =
              [config](const ReferenceLayer& layer) {
                return std::make_unique<Reference>(config, layer);
              },
          .edit = edit};
}

// Of two layers of 24 channels over 50 tokens, and `keys`.
nlohmann::json SmallDecoder(const char* model_type, const nlohmann::json& keys);

// What a configuration says otherwise than another.
struct FormulaVariant {
  const char* name;
  nlohmann::json keys = nlohmann::json::object();
  WeightEdit edit = nullptr;
};

template <typename Reference>
std::vector<Formula> FormulasOf(const nlohmann::json& config,
                                const std::vector<FormulaVariant>& variants) {
  std::vector<Formula> formulas;
  for (const FormulaVariant& variant : variants) {
    nlohmann::json changed = config;
    changed.update(variant.keys);
    formulas.push_back(
        FormulaOf<Reference>(variant.name, changed, variant.edit));
  }
  return formulas;
}

// The mixer of a configuration's first layer, alone.
class FormulaCase {
 public:
  explicit FormulaCase(const Formula& formula);

  const ReferenceWeights& weights() const { return weights_; }
  ReferenceLayer layer() const { return {weights_, "", 0}; }
  StatePool& pool() { return *pool_; }
  int64_t hidden() const { return spec_.hidden; }
  // A slot that has consumed nothing.
  int32_t NewSlot();
  // [tokens, hidden]; `period` tokens over and over, unless it is 0.
  std::vector<float> Input(int64_t tokens, int64_t period = 0) const;
  // One pass of rows; those of -1 are padding. x and the result [tokens,
  // hidden], row by row; the rows of fewest tokens must come first.
  std::vector<float> Run(std::span<const int32_t> slots,
                         std::span<const int32_t> row_tokens,
                         std::span<const float> x,
                         Form form);
  // x to one slot, in passes of `piece` tokens.
  std::vector<float> Feed(int32_t slot,
                          std::span<const float> x,
                          int64_t piece,
                          Form form = Form::kByLength);
  std::vector<float> Expected(std::span<const float> x) const;

 private:
  const Formula formula_;
  DecoderSpec spec_;
  std::vector<Sublayer> parts_;
  Mixer* mixer_ = nullptr;
  ReferenceWeights weights_;
  std::unique_ptr<StatePool> pool_;
};

// A whole model's, drawn.
TensorFile DrawWeights(const Formula& formula);

double RelativeRmse(std::span<const float> got, std::span<const float> want);

// The recurrent form within 1e-6 of the reference and the chunk form within
// 1e-5; every length from 1 to 130 in one pass, token by token, and split
// anywhere; among neighbours; saved and loaded in between.
void ExpectMixer(const Formula& formula);

// Within 1e-5 of the reference over 100,000 tokens, in both forms. `period`:
// how many different tokens there are, 0 for all.
void ExpectLongStream(const Formula& formula, int64_t period);

// A folder of the configuration through the real loader: its scores are the
// reference's, token by token within `recurrent_rmse_max` and in one append
// within 1e-5, and so are those of sessions that share steps in rows of both
// kinds.
void ExpectScores(const Formula& formula, double recurrent_rmse_max = 1e-6);

// ExpectMixer and ExpectScores of every formula for which a test says
//
//   INSTANTIATE_TEST_SUITE_P(
//       GatedSlots, FormulaTest, testing::ValuesIn(Formulas()), FormulaName);
class FormulaTest : public testing::TestWithParam<Formula> {};
std::string FormulaName(const testing::TestParamInfo<Formula>& info);
// What GoogleTest shows of one.
void PrintTo(const Formula& formula, std::ostream* stream);

}  // namespace weir::engine
