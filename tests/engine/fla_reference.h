// SPDX-License-Identifier: Apache-2.0
//
// A small random model in flash-linear-attention's decoder layout, as files
// and, beside them, as the formulas have it: in fp64, token by token. A mixer's
// test says what its layer holds and computes.
//
// Threads: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/engine/model_files.h"

namespace weir::engine {

using Vector = std::vector<double>;

double Sigmoid(double x);
double Silu(double x);
double Softplus(double x);

// x [heads, dim], one head of it.
Vector HeadOf(const Vector& x, int head, int dim);
// x / sqrt(x.x + 1e-6)
Vector UnitLength(const Vector& x);

// S [K, V] from zero on.
struct DenseState {
  Vector s;

  // S[i, :] *= d[i]
  void Decay(const Vector& d, size_t values);
  // S^T x, of S as it is.
  Vector Read(const Vector& x, size_t values);
  // S += k v^T
  void Write(const Vector& k, const Vector& v);

 private:
  void Reach(size_t keys, size_t values) { s.resize(keys * values, 0.0); }
};

class FlaReference {
 public:
  static constexpr int kHidden = 24;
  static constexpr int kIntermediate = 40;
  static constexpr int kVocabulary = 50;
  static constexpr int kLayers = 2;
  static constexpr int kConvWidth = 3;
  static constexpr double kEps = 1e-5;

  virtual ~FlaReference() = default;

  // Draws the weights. Called once, before all else.
  void Build();
  nlohmann::json Config() const;
  const TensorFile& files() const { return files_; }
  // log p(tokens[t] | tokens before it) for t >= 1.
  std::vector<double> Scores(const std::vector<uint32_t>& tokens);

 protected:
  // The keys beside those that all families have.
  virtual nlohmann::json MixerConfig() const = 0;
  virtual void AddMixer(const std::string& attn) = 0;
  // `attn` is "model.layers.N.attn.", of layer N.
  virtual Vector Mix(int layer, const std::string& attn, const Vector& x) = 0;

  // A tensor of normal numbers times `scale`, plus `shift`.
  void Add(const std::string& name,
           const std::vector<int64_t>& shape,
           float scale,
           float shift = 0);
  void Set(const std::string& name,
           const std::vector<int64_t>& shape,
           const std::vector<float>& values);
  // PART_proj and, where `conv`, PART_conv1d.
  void AddPart(const std::string& attn,
               const std::string& part,
               int rows,
               bool conv,
               bool bias);
  const std::vector<float>& T(const std::string& name) const {
    return tensors_.at(name);
  }
  Vector Multiply(const std::string& name, const Vector& x) const;
  // What AddPart added: projected and, where `conv`, convolved with what came
  // before. An activation is the caller's.
  Vector Part(const std::string& attn,
              const std::string& part,
              const Vector& x,
              bool conv,
              bool bias);
  Vector Norm(const Vector& x, const std::string& name, double eps) const;
  DenseState& State(const std::string& name) { return states_[name]; }

 private:
  Vector FeedForward(const std::string& layer, const Vector& x) const;

  std::mt19937_64 random_{20261124};
  TensorFile files_;
  std::map<std::string, std::vector<float>> tensors_;
  std::map<std::string, DenseState> states_;
  std::map<std::string, std::vector<Vector>> past_;
};

// Builds the model; an engine on its files scores as it does itself, in rows
// that go through the chunk form, in rows that go token by token and in steps
// that have both.
void ExpectScoresOfTheFormulas(FlaReference& reference);

// The scores of a document of `tokens` by the model of a folder, in rows of
// `piece`, without the first, which is NaN.
std::vector<float> ScoresOf(const std::string& folder,
                            uint32_t vocabulary,
                            size_t tokens,
                            size_t piece);

}  // namespace weir::engine
