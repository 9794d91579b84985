// SPDX-License-Identifier: Apache-2.0
//
// A mixer of a configuration, with seeded random weights, against the same
// formulas written anew in fp64: alone, and as the layers of a whole model.
//
// Threads: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/mixers/decoder_spec.h"
#include "engine/mixers/mixer.h"
#include "nlohmann/json.hpp"

namespace weir::engine {

using Vector = std::vector<double>;

// Named tensors as a reference reads them.
class ReferenceWeights {
 public:
  void Add(const std::string& name, std::vector<float> values);
  const std::vector<float>& operator[](const std::string& name) const;
  bool Has(const std::string& name) const { return tensors_.contains(name); }
  // W x by NAME.weight, plus NAME.bias if there is one.
  Vector Project(const std::string& name, const Vector& x) const;
  // x / sqrt(mean x^2 + eps) times NAME.weight.
  Vector RmsNorm(const std::string& name, double eps, const Vector& x) const;
  // What nobody has read.
  std::vector<std::string> Unread() const;

 private:
  std::map<std::string, std::vector<float>> tensors_;
  mutable std::set<std::string> read_;
};

// One layer's mixer, token by token.
class ReferenceMixer {
 public:
  virtual ~ReferenceMixer() = default;
  virtual Vector Step(const Vector& x) = 0;
};

using MakeReference = std::function<std::unique_ptr<ReferenceMixer>(
    const ReferenceWeights& weights, const std::string& prefix)>;

// The mixer of a configuration's first layer, alone.
class MixerCase {
 public:
  MixerCase(const nlohmann::json& config, uint64_t seed);

  const ReferenceWeights& weights() const { return weights_; }
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
  std::vector<float> Expected(const MakeReference& make,
                              std::span<const float> x) const;

 private:
  DecoderSpec spec_;
  std::vector<Sublayer> parts_;
  Mixer* mixer_ = nullptr;
  ReferenceWeights weights_;
  std::unique_ptr<StatePool> pool_;
};

double RelativeRmse(std::span<const float> got, std::span<const float> want);

// The recurrent form within 1e-6 of the reference and the chunk form within
// 1e-5; every length from 1 to 130 in one pass, token by token, and split
// anywhere; among neighbours; saved and loaded in between.
void ExpectMixer(const nlohmann::json& config, const MakeReference& make);

// Within 1e-5 of the reference over 100,000 tokens, in both forms. `period`:
// how many different tokens there are, 0 for all.
void ExpectLongStream(const nlohmann::json& config,
                      const MakeReference& make,
                      int64_t period);

// A folder of the configuration through the real loader: its scores are the
// reference's, in one append and in small ones.
void ExpectScores(const nlohmann::json& config, const MakeReference& make);

}  // namespace weir::engine
