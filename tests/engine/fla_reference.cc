// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/fla_reference.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace weir::engine {
namespace {

constexpr uint64_t kSeed = 20261124;
constexpr size_t kTokens = 150;
// Of the scores' deviation to their size, both as root mean squares.
constexpr double kChunkErrorMax = 1e-5;
constexpr double kRecurrentErrorMax = 1e-6;

void AddTo(Vector& x, const Vector& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

void ExpectClose(const std::vector<float>& scores,
                 const std::vector<double>& expected,
                 double error_max) {
  ASSERT_EQ(scores.size(), expected.size());
  double squares = 0;
  double errors = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double error = scores[i] - expected[i];
    squares += expected[i] * expected[i];
    errors += error * error;
    ASSERT_NEAR(scores[i], expected[i], 1e-4) << "token " << i + 1;
  }
  EXPECT_LT(std::sqrt(errors / squares), error_max);
}

// The scores of sessions that share each step, each in rows of its own length,
// without the first of each.
std::vector<std::vector<float>> ScoresTogether(
    const std::string& folder,
    const std::vector<uint32_t>& document,
    const std::vector<size_t>& pieces) {
  std::vector<std::vector<float>> scores(pieces.size());
  auto engine = TorchEngine::Create(
      {.model_dir = folder, .slots = static_cast<int32_t>(pieces.size())});
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return scores;
  std::vector<int32_t> slots;
  for (size_t i = 0; i < pieces.size(); ++i) {
    slots.push_back(*(*engine)->AcquireSlot());
  }
  std::vector<size_t> fed(pieces.size(), 0);
  while (*std::min_element(fed.begin(), fed.end()) < document.size()) {
    Plan plan;
    std::vector<size_t> of_row;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const auto rest = std::span(document).subspan(fed[i]);
      if (rest.empty()) continue;
      Row row;
      row.slot = slots[i];
      row.tokens = rest.first(std::min(pieces[i], rest.size()));
      row.first = fed[i] == 0;
      row.want_scores = true;
      fed[i] += row.tokens.size();
      plan.rows.push_back(row);
      of_row.push_back(i);
    }
    const StepResult result = RunStep(**engine, plan);
    for (size_t row = 0; row < of_row.size(); ++row) {
      const std::vector<float>& more = result.rows[row].scores;
      std::vector<float>& all = scores[of_row[row]];
      all.insert(all.end(), more.begin(), more.end());
    }
  }
  for (std::vector<float>& all : scores) all.erase(all.begin());
  return scores;
}

}  // namespace

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Silu(double x) { return x * Sigmoid(x); }
double Softplus(double x) {
  return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
}

Vector HeadOf(const Vector& x, int head, int dim) {
  return {x.begin() + std::ptrdiff_t{head} * dim,
          x.begin() + (std::ptrdiff_t{head} + 1) * dim};
}

Vector UnitLength(const Vector& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  Vector y = x;
  for (double& value : y) value /= std::sqrt(squares + 1e-6);
  return y;
}

void DenseState::Decay(const Vector& d, size_t values) {
  Reach(d.size(), values);
  for (size_t i = 0; i < s.size(); ++i) s[i] *= d[i / values];
}

Vector DenseState::Read(const Vector& x, size_t values) {
  Reach(x.size(), values);
  Vector y(values, 0.0);
  for (size_t i = 0; i < s.size(); ++i) y[i % values] += s[i] * x[i / values];
  return y;
}

void DenseState::Write(const Vector& k, const Vector& v) {
  Reach(k.size(), v.size());
  for (size_t i = 0; i < s.size(); ++i) {
    s[i] += k[i / v.size()] * v[i % v.size()];
  }
}

void FlaReference::Build() {
  Add("model.embeddings.weight", {kVocabulary, kHidden}, 1);
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    Add(prefix + "attn_norm.weight", {kHidden}, 0.1F, 1);
    AddMixer(prefix + "attn.");
    Add(prefix + "mlp_norm.weight", {kHidden}, 0.1F, 1);
    Add(prefix + "mlp.gate_proj.weight", {kIntermediate, kHidden}, 0.3F);
    Add(prefix + "mlp.up_proj.weight", {kIntermediate, kHidden}, 0.3F);
    Add(prefix + "mlp.down_proj.weight", {kHidden, kIntermediate}, 0.2F);
  }
  Add("model.norm.weight", {kHidden}, 0.1F, 1);
  Add("lm_head.weight", {kVocabulary, kHidden}, 0.4F);
}

nlohmann::json FlaReference::Config() const {
  nlohmann::json config = {{"hidden_size", kHidden},
                           {"num_hidden_layers", kLayers},
                           {"vocab_size", kVocabulary},
                           {"intermediate_size", kIntermediate},
                           {"norm_eps", kEps}};
  config.update(MixerConfig());
  return config;
}

std::vector<double> FlaReference::Scores(const std::vector<uint32_t>& tokens) {
  std::vector<double> scores;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    const std::vector<float>& table = T("model.embeddings.weight");
    Vector x(table.begin() + tokens[t] * kHidden,
             table.begin() + (tokens[t] + 1) * kHidden);
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      const Vector in = Norm(x, prefix + "attn_norm.weight", kEps);
      AddTo(x, Mix(layer, prefix + "attn.", in));
      AddTo(x, FeedForward(prefix, Norm(x, prefix + "mlp_norm.weight", kEps)));
    }
    const Vector logits =
        Multiply("lm_head.weight", Norm(x, "model.norm.weight", kEps));
    const double high = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - high);
    scores.push_back(logits[tokens[t + 1]] - high - std::log(sum));
  }
  return scores;
}

void FlaReference::Add(const std::string& name,
                       const std::vector<int64_t>& shape,
                       float scale,
                       float shift) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = shift + scale * normal(random_);
  Set(name, shape, values);
}

void FlaReference::Set(const std::string& name,
                       const std::vector<int64_t>& shape,
                       const std::vector<float>& values) {
  files_.Add(name, shape, values);
  tensors_[name] = values;
}

void FlaReference::AddPart(const std::string& attn,
                           const std::string& part,
                           int rows,
                           bool conv,
                           bool bias) {
  Add(attn + part + "_proj.weight", {rows, kHidden}, 0.3F);
  if (!conv) return;
  Add(attn + part + "_conv1d.weight", {rows, 1, kConvWidth}, 0.5F);
  if (bias) Add(attn + part + "_conv1d.bias", {rows}, 0.3F);
}

Vector FlaReference::Multiply(const std::string& name, const Vector& x) const {
  const std::vector<float>& weight = T(name);
  Vector y(weight.size() / x.size(), 0.0);
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c) {
      y[r] += weight[r * x.size() + c] * x[c];
    }
  }
  return y;
}

Vector FlaReference::Part(const std::string& attn,
                          const std::string& part,
                          const Vector& x,
                          bool conv,
                          bool bias) {
  Vector now = Multiply(attn + part + "_proj.weight", x);
  if (!conv) return now;
  std::vector<Vector>& past = past_[attn + part];
  past.resize(kConvWidth, Vector(now.size(), 0.0));
  past.erase(past.begin());
  past.push_back(now);
  const std::vector<float>& taps = T(attn + part + "_conv1d.weight");
  for (size_t c = 0; c < now.size(); ++c) {
    now[c] = bias ? T(attn + part + "_conv1d.bias")[c] : 0;
    for (size_t w = 0; w < kConvWidth; ++w) {
      now[c] += taps[c * kConvWidth + w] * past[w][c];
    }
  }
  return now;
}

Vector FlaReference::Norm(const Vector& x,
                          const std::string& name,
                          double eps) const {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double scale =
      1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Vector y = x;
  for (size_t i = 0; i < x.size(); ++i) y[i] *= scale * T(name)[i];
  return y;
}

Vector FlaReference::FeedForward(const std::string& layer,
                                 const Vector& x) const {
  Vector gate = Multiply(layer + "mlp.gate_proj.weight", x);
  const Vector up = Multiply(layer + "mlp.up_proj.weight", x);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = Silu(gate[i]) * up[i];
  return Multiply(layer + "mlp.down_proj.weight", gate);
}

void ExpectScoresOfTheFormulas(FlaReference& reference) {
  reference.Build();
  const TempFolder folder;
  WriteFileBytes(folder.File("config.json"), reference.Config().dump());
  reference.files().Write(folder.File("model.safetensors"));
  const auto tokens = RandomTokens(FlaReference::kVocabulary, kTokens, kSeed);
  const auto alone = [&](size_t piece) {
    return ScoresOf(folder.path(), FlaReference::kVocabulary, kTokens, piece);
  };

  const std::vector<double> expected = reference.Scores(tokens);

  ExpectClose(alone(kTokens), expected, kChunkErrorMax);
  ExpectClose(alone(5), expected, kRecurrentErrorMax);
  for (const auto& scores : ScoresTogether(folder.path(), tokens, {5, 75, 1})) {
    ExpectClose(scores, expected, kChunkErrorMax);
  }
}

std::vector<float> ScoresOf(const std::string& folder,
                            uint32_t vocabulary,
                            size_t tokens,
                            size_t piece) {
  auto engine = TorchEngine::Create({.model_dir = folder, .slots = 1});
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return {};
  const int32_t slot = *(*engine)->AcquireSlot();
  const auto document = RandomTokens(vocabulary, tokens, kSeed);
  auto scores = FeedInPieces(**engine, slot, document, piece);
  if (!scores.empty()) scores.erase(scores.begin());
  return scores;
}

}  // namespace weir::engine
