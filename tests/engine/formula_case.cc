// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/formula_case.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "engine/model/layer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/config_case.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

constexpr uint64_t kSeed = 20261124;
constexpr double kRecurrentRmseMax = 1e-6;
constexpr double kChunkRmseMax = 1e-5;
constexpr int32_t kSlots = 4;
#if defined(__SANITIZE_ADDRESS__)
// What it touches is the same, at a tenth of the speed.
constexpr int64_t kLongTokens = 5000;
#else
constexpr int64_t kLongTokens = 100'000;
#endif
constexpr int64_t kPassTokens = 512;

bool EndsWith(const std::string& name, const std::string& end) {
  return name.size() >= end.size() &&
         name.compare(name.size() - end.size(), end.size(), end) == 0;
}

// Values of the sizes that a trained model has: norms about one, and products
// that keep the size of what they multiply.
std::vector<float> DrawTensor(const std::string& name,
                              const std::vector<int64_t>& shape,
                              std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<float> values(static_cast<size_t>(count));
  const bool is_norm = name.find("norm") != std::string::npos;
  float scale = 0.3F;
  if (is_norm) scale = 0.1F;
  if (EndsWith(name, "projection_matrix")) scale = 1;
  if (EndsWith(name, "_proj.weight")) {
    scale = 1 / std::sqrt(static_cast<float>(shape.back()));
  }
  for (float& value : values)
    value = scale * normal(random) + (is_norm ? 1 : 0);
  return values;
}

// As the loader puts a tensor where it goes.
void Place(const WeightSlot& slot, const std::vector<float>& values) {
  const absl::Status status = slot.buffer->Allocate();
  WEIR_CHECK(status.ok());
  float* to = slot.buffer->data() + slot.offset;
  if (slot.taps_pitch == 0) {
    std::copy(values.begin(), values.end(), to);
    return;
  }
  const int64_t width = slot.shape[2];
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
    to[i % width * slot.taps_pitch + i / width] =
        values[static_cast<size_t>(i)];
  }
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

// The decoder around the mixers, in fp64.
class ReferenceDecoder {
 public:
  ReferenceDecoder(const nlohmann::json& config,
                   const DecoderSpec& spec,
                   const ReferenceWeights& weights,
                   const MakeReference& make)
      : layers_(spec.layers),
        hidden_(static_cast<size_t>(spec.hidden)),
        eps_(config.at("norm_eps").get<double>()),
        weights_(weights) {
    for (int32_t layer = 0; layer < layers_; ++layer) {
      mixers_.push_back(make(weights, Layer(layer) + "attn."));
    }
  }

  // log p(next | tokens so far, `token` the last).
  double Score(uint32_t token, uint32_t next) {
    const auto& table = weights_["model.embeddings.weight"];
    Vector x(table.begin() + static_cast<int64_t>(token * hidden_),
             table.begin() + static_cast<int64_t>((token + 1) * hidden_));
    for (int32_t layer = 0; layer < layers_; ++layer) {
      const std::string prefix = Layer(layer);
      Add(x,
          mixers_[static_cast<size_t>(layer)]->Step(
              weights_.RmsNorm(prefix + "attn_norm", eps_, x)));
      const Vector y = weights_.RmsNorm(prefix + "mlp_norm", eps_, x);
      Vector gate = weights_.Project(prefix + "mlp.gate_proj", y);
      const Vector up = weights_.Project(prefix + "mlp.up_proj", y);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = Silu(gate[i]) * up[i];
      Add(x, weights_.Project(prefix + "mlp.down_proj", gate));
    }
    const Vector logits =
        weights_.Project("lm_head", weights_.RmsNorm("model.norm", eps_, x));
    const double high = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - high);
    return logits[next] - high - std::log(sum);
  }

 private:
  static std::string Layer(int32_t index) {
    return "model.layers." + std::to_string(index) + ".";
  }
  static void Add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const int32_t layers_;
  const size_t hidden_;
  const double eps_;
  const ReferenceWeights& weights_;
  std::vector<std::unique_ptr<ReferenceMixer>> mixers_;
};

DecoderSpec SpecOf(const nlohmann::json& config) {
  auto spec = Parse(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  WEIR_CHECK(spec.ok());
  return *std::move(spec);
}

}  // namespace

void ReferenceWeights::Add(const std::string& name, std::vector<float> values) {
  tensors_[name] = std::move(values);
}

const std::vector<float>& ReferenceWeights::operator[](
    const std::string& name) const {
  const auto it = tensors_.find(name);
  EXPECT_NE(it, tensors_.end()) << name;
  WEIR_CHECK(it != tensors_.end());
  read_.insert(name);
  return it->second;
}

Vector ReferenceWeights::Project(const std::string& name,
                                 const Vector& x) const {
  const auto& weight = (*this)[name + ".weight"];
  Vector y(weight.size() / x.size(), 0.0);
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c)
      y[r] += weight[r * x.size() + c] * x[c];
  }
  if (!Has(name + ".bias")) return y;
  const auto& bias = (*this)[name + ".bias"];
  for (size_t r = 0; r < y.size(); ++r) y[r] += bias[r];
  return y;
}

Vector ReferenceWeights::RmsNorm(const std::string& name,
                                 double eps,
                                 const Vector& x) const {
  const auto& weight = (*this)[name + ".weight"];
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double scale =
      1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Vector y = x;
  for (size_t i = 0; i < x.size(); ++i) y[i] *= scale * weight[i];
  return y;
}

std::vector<std::string> ReferenceWeights::Unread() const {
  std::vector<std::string> names;
  for (const auto& [name, values] : tensors_) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

MixerCase::MixerCase(const nlohmann::json& config, uint64_t seed)
    : spec_(SpecOf(config)), parts_(LayerOf(spec_)) {
  mixer_ = parts_[0].part.get();
  std::mt19937_64 random(seed);
  for (const WeightSlot& slot : mixer_->Weights()) {
    const auto values = DrawTensor(slot.name, slot.shape, random);
    Place(slot, values);
    weights_.Add(slot.name, values);
  }
  mixer_->Prepare();
  auto pool =
      StatePool::Create({.tensors = mixer_->State()}, {.slots = kSlots});
  EXPECT_TRUE(pool.ok()) << pool.status();
  WEIR_CHECK(pool.ok());
  pool_ = *std::move(pool);
}

int32_t MixerCase::NewSlot() {
  const auto slot = pool_->Acquire();
  WEIR_CHECK(slot.ok());
  return *slot;
}

std::vector<float> MixerCase::Input(int64_t tokens, int64_t period) const {
  std::mt19937_64 random(kSeed + 1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * hidden()));
  const auto repeated = static_cast<size_t>(period * hidden());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = repeated > 0 && i >= repeated ? x[i - repeated] : normal(random);
  }
  return x;
}

std::vector<float> MixerCase::Run(std::span<const int32_t> slots,
                                  std::span<const int32_t> row_tokens,
                                  std::span<const float> x,
                                  Form form) {
  std::vector<int32_t> row_starts = {0};
  int32_t short_rows = 0;
  for (const int32_t tokens : row_tokens) {
    row_starts.push_back(row_starts.back() + tokens);
    if (IsShortRow(tokens)) ++short_rows;
  }
  const Batch batch = {.rows = static_cast<int32_t>(slots.size()),
                       .tokens = row_starts.back(),
                       .row_starts = row_starts.data(),
                       .slots = slots.data(),
                       .short_rows = short_rows,
                       .form = form};
  std::vector<float> workspace(
      static_cast<size_t>(batch.tokens * mixer_->workspace_floats()));
  std::vector<float> out(x.size());
  mixer_->Forward({.batch = &batch,
                   .x = x.data(),
                   .state = {.pool = pool_.get(), .first = 0}},
                  workspace.data(),
                  out.data());
  return out;
}

std::vector<float> MixerCase::Feed(int32_t slot,
                                   std::span<const float> x,
                                   int64_t piece,
                                   Form form) {
  std::vector<float> out;
  while (!x.empty()) {
    const size_t floats =
        std::min(x.size(), static_cast<size_t>(piece * hidden()));
    const auto tokens =
        static_cast<int32_t>(floats / static_cast<size_t>(hidden()));
    const auto y = Run({&slot, 1}, {&tokens, 1}, x.first(floats), form);
    out.insert(out.end(), y.begin(), y.end());
    x = x.subspan(floats);
  }
  return out;
}

std::vector<float> MixerCase::Expected(const MakeReference& make,
                                       std::span<const float> x) const {
  const auto reference = make(weights_, "");
  std::vector<float> out;
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(hidden())) {
    const auto token = x.subspan(at, static_cast<size_t>(hidden()));
    for (const double y : reference->Step(Vector(token.begin(), token.end()))) {
      out.push_back(static_cast<float>(y));
    }
  }
  return out;
}

double RelativeRmse(std::span<const float> got, std::span<const float> want) {
  WEIR_CHECK(got.size() == want.size() && !want.empty());
  double error = 0;
  double square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    square += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / square);
}

namespace {

void ExpectEveryLength(MixerCase& mixer,
                       std::span<const float> x,
                       std::span<const float> want) {
  const auto hidden = static_cast<size_t>(mixer.hidden());
  for (size_t tokens = 1; tokens <= 130; ++tokens) {
    SCOPED_TRACE(tokens);
    const int32_t slot = mixer.NewSlot();
    const size_t floats = tokens * hidden;
    const auto first =
        mixer.Feed(slot, x.first(floats), static_cast<int64_t>(tokens));
    EXPECT_LE(RelativeRmse(first, want.first(floats)), kChunkRmseMax);
    // The state is as good as the outputs.
    const auto more = mixer.Feed(slot, x.subspan(floats, 40 * hidden), 40);
    EXPECT_LE(RelativeRmse(more, want.subspan(floats, 40 * hidden)),
              kChunkRmseMax);
    mixer.pool().Release(slot);
  }
}

void ExpectAnySplit(MixerCase& mixer,
                    std::span<const float> x,
                    std::span<const float> want) {
  const auto hidden = static_cast<size_t>(mixer.hidden());
  std::mt19937_64 random(kSeed);
  const int32_t slot = mixer.NewSlot();
  std::vector<float> got;
  while (got.size() < x.size()) {
    const size_t tokens =
        std::min((x.size() - got.size()) / hidden,
                 random() % 4 == 0 ? 64 + random() % 70 : 1 + random() % 9);
    const auto y = mixer.Feed(slot,
                              x.subspan(got.size(), tokens * hidden),
                              static_cast<int64_t>(tokens));
    got.insert(got.end(), y.begin(), y.end());
  }
  mixer.pool().Release(slot);
  EXPECT_LE(RelativeRmse(got, want), kChunkRmseMax);
}

// Rows of several sessions in one pass, one of them padding; a session that
// stands in no row keeps its bits.
void ExpectNeighboursDoNotMatter(MixerCase& mixer,
                                 std::span<const float> x,
                                 std::span<const float> want) {
  const auto hidden = static_cast<size_t>(mixer.hidden());
  const int32_t idle = mixer.NewSlot();
  mixer.Feed(idle, x.first(3 * hidden), 3);
  std::vector<std::byte> before(
      static_cast<size_t>(mixer.pool().spec().bytes()));
  ASSERT_TRUE(mixer.pool().Save(idle, before).ok());
  const std::vector<int32_t> slots = {
      mixer.NewSlot(), -1, mixer.NewSlot(), mixer.NewSlot()};
  const std::vector<int32_t> tokens = {1, 2, 20, 100};
  std::vector<float> rows;
  for (const int32_t count : tokens) {
    rows.insert(rows.end(), x.begin(), x.begin() + count * mixer.hidden());
  }

  const auto got = mixer.Run(slots, tokens, rows, Form::kByLength);

  size_t at = 0;
  for (size_t row = 0; row < slots.size(); ++row) {
    const size_t floats = static_cast<size_t>(tokens[row]) * hidden;
    if (slots[row] >= 0) {
      EXPECT_LE(
          RelativeRmse(std::span(got).subspan(at, floats), want.first(floats)),
          kChunkRmseMax)
          << "row " << row;
      mixer.pool().Release(slots[row]);
    }
    at += floats;
  }
  std::vector<std::byte> after(before.size());
  ASSERT_TRUE(mixer.pool().Save(idle, after).ok());
  EXPECT_EQ(before, after);
  mixer.pool().Release(idle);
}

void ExpectSavedAndLoaded(MixerCase& mixer, std::span<const float> x) {
  const auto hidden = static_cast<size_t>(mixer.hidden());
  const int32_t from = mixer.NewSlot();
  mixer.Feed(from, x.first(90 * hidden), 90);
  std::vector<std::byte> state(
      static_cast<size_t>(mixer.pool().spec().bytes()));
  ASSERT_TRUE(mixer.pool().Save(from, state).ok());
  const int32_t to = mixer.NewSlot();
  ASSERT_TRUE(mixer.pool().Load(state, to).ok());
  const auto rest = x.subspan(90 * hidden, 70 * hidden);

  EXPECT_EQ(mixer.Feed(from, rest, 70), mixer.Feed(to, rest, 70));

  mixer.pool().Release(from);
  mixer.pool().Release(to);
}

}  // namespace

void ExpectMixer(const nlohmann::json& config, const MakeReference& make) {
  MixerCase mixer(config, kSeed);
  const std::vector<float> x = mixer.Input(300);
  const std::vector<float> want = mixer.Expected(make, x);
  EXPECT_THAT(mixer.weights().Unread(), testing::IsEmpty());
  for (const auto& [form, piece, rmse_max] :
       {std::tuple{Form::kReference, 300, kRecurrentRmseMax},
        std::tuple{Form::kRecurrent, 300, kRecurrentRmseMax},
        std::tuple{Form::kRecurrent, 1, kRecurrentRmseMax},
        std::tuple{Form::kChunk, 300, kChunkRmseMax},
        std::tuple{Form::kByLength, 1, kRecurrentRmseMax}}) {
    SCOPED_TRACE(testing::Message()
                 << "form " << static_cast<int>(form) << " piece " << piece);
    const int32_t slot = mixer.NewSlot();
    EXPECT_LE(RelativeRmse(mixer.Feed(slot, x, piece, form), want), rmse_max);
    mixer.pool().Release(slot);
  }
  ExpectEveryLength(mixer, x, want);
  ExpectAnySplit(mixer, x, want);
  ExpectNeighboursDoNotMatter(mixer, x, want);
  ExpectSavedAndLoaded(mixer, x);
}

void ExpectLongStream(const nlohmann::json& config,
                      const MakeReference& make,
                      int64_t period) {
  MixerCase mixer(config, kSeed);
  const std::vector<float> x = mixer.Input(kLongTokens, period);
  const std::vector<float> want = mixer.Expected(make, x);
  const auto last = static_cast<size_t>(1000 * mixer.hidden());
  for (const Form form : {Form::kRecurrent, Form::kChunk}) {
    SCOPED_TRACE(form == Form::kChunk ? "chunk" : "recurrent");
    const int32_t slot = mixer.NewSlot();
    const std::vector<float> got = mixer.Feed(slot, x, kPassTokens, form);
    EXPECT_LE(RelativeRmse(got, want), kChunkRmseMax);
    // The end alone, which the beginning cannot outweigh.
    EXPECT_LE(
        RelativeRmse(std::span(got).last(last), std::span(want).last(last)),
        kChunkRmseMax);
    mixer.pool().Release(slot);
  }
}

void ExpectScores(const nlohmann::json& config, const MakeReference& make) {
  const DecoderSpec spec = SpecOf(config);
  std::mt19937_64 random(kSeed);
  ReferenceWeights weights;
  TensorFile file;
  const auto add = [&](const std::string& name,
                       const std::vector<int64_t>& shape) {
    const auto values = DrawTensor(name, shape, random);
    weights.Add(name, values);
    file.Add(name, shape, values);
  };
  add("model.embeddings.weight", {spec.vocabulary, spec.hidden});
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    for (LayerPart& part : MakeLayer(spec, layer)) {
      for (const WeightSlot& slot : part.Weights()) add(slot.name, slot.shape);
    }
  }
  add("model.norm.weight", {spec.hidden});
  add("lm_head.weight", {spec.vocabulary, spec.hidden});
  const TempFolder folder;
  WriteFileBytes(folder.File("config.json"), config.dump());
  file.Write(folder.File("model.safetensors"));
  auto engine = TorchEngine::Create({.model_dir = folder.path(), .slots = 3});
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->model().positions_max, spec.positions_max);
  const auto tokens =
      RandomTokens(static_cast<uint32_t>(spec.vocabulary), 150, kSeed);
  ReferenceDecoder reference(config, spec, weights, make);
  std::vector<double> want;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    want.push_back(reference.Score(tokens[t], tokens[t + 1]));
  }
  EXPECT_THAT(weights.Unread(), testing::IsEmpty());

  for (const size_t piece : {150, 7, 1}) {
    SCOPED_TRACE(piece);
    const int32_t slot = *(*engine)->AcquireSlot();
    const auto scores = FeedInPieces(**engine, slot, tokens, piece);
    for (size_t i = 1; i < scores.size(); ++i) {
      ASSERT_NEAR(scores[i], want[i - 1], 1e-4) << "token " << i;
    }
  }
}

}  // namespace weir::engine
