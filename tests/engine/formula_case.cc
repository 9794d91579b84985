// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/formula_case.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "engine/model/layer.h"
#include "gmock/gmock.h"
#include "tests/engine/config_case.h"
#include "tests/engine/engine_driver.h"

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
constexpr size_t kScoredTokens = 150;

struct Drawn {
  std::string_view ending;
  float scale;
  float shift = 0;
};

constexpr Drawn kDrawn[] = {
    {"projection_matrix", 1},
    {"_conv1d.weight", 0.5F},
    {"A_log", 0.5F},
    {"dt_bias", 1, -2},
    // Of gates, which are to reach far from their middle.
    {"a_proj.weight", 0.3F},
    {"b_proj.weight", 0.3F},
    {"w_proj.weight", 0.3F},
    {"gk_proj.weight", 0.5F},
    {"gk_proj.bias", 1},
};

Drawn DrawnFor(const std::string& name, const std::vector<int64_t>& shape) {
  if (name.find("norm") != std::string::npos) return {"", 0.1F, 1};
  for (const Drawn& drawn : kDrawn) {
    if (name.ends_with(drawn.ending)) return drawn;
  }
  if (!name.ends_with("_proj.weight")) return {"", 0.3F};
  return {"", 1 / std::sqrt(static_cast<float>(shape.back()))};
}

// Values of the sizes that a trained model has: norms about one, and products
// that keep the size of what they multiply.
std::vector<float> Draw(const Formula& formula,
                        const std::string& name,
                        const std::vector<int64_t>& shape,
                        std::mt19937_64& random) {
  const Drawn drawn = DrawnFor(name, shape);
  std::normal_distribution<float> normal;
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = drawn.scale * normal(random) + drawn.shift;
  }
  if (formula.edit != nullptr) formula.edit(name, values);
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

// The decoder around the mixers, in fp64.
class ReferenceDecoder {
 public:
  ReferenceDecoder(const Formula& formula, const ReferenceWeights& weights)
      : config_(formula.config), weights_(weights) {
    for (int32_t layer = 0; layer < Size("num_hidden_layers"); ++layer) {
      mixers_.push_back(formula.reference(
          ReferenceLayer(weights, Prefix(layer) + "attn.", layer)));
    }
  }

  // log p(next | tokens so far, `token` the last).
  double Score(uint32_t token, uint32_t next) {
    const int64_t hidden = Size("hidden_size");
    const auto vocabulary = static_cast<size_t>(Size("vocab_size"));
    const auto& table = weights_.Get("model.embeddings.weight",
                                     {vocabulary, static_cast<size_t>(hidden)});
    const auto at = table.begin() + token * hidden;
    Vector x(at, at + hidden);
    for (size_t layer = 0; layer < mixers_.size(); ++layer) {
      const std::string prefix = Prefix(static_cast<int32_t>(layer));
      x = Plus(x, mixers_[layer]->Step(Norm(prefix + "attn_norm", x)));
      x = Plus(x, FeedForward(prefix + "mlp.", Norm(prefix + "mlp_norm", x)));
    }
    const Vector logits =
        weights_.Project("lm_head", vocabulary, Norm("model.norm", x));
    const double high = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - high);
    return logits[next] - high - std::log(sum);
  }

 private:
  static std::string Prefix(int32_t layer) {
    return "model.layers." + std::to_string(layer) + ".";
  }
  int64_t Size(const char* key) const { return config_.at(key).get<int64_t>(); }
  Vector Norm(const std::string& name, const Vector& x) const {
    return weights_.RmsNorm(name, config_.at("norm_eps").get<double>(), x);
  }
  Vector FeedForward(const std::string& prefix, const Vector& x) const {
    const auto width = static_cast<size_t>(Size("intermediate_size"));
    const Vector gate = weights_.Project(prefix + "gate_proj", width, x);
    const Vector up = weights_.Project(prefix + "up_proj", width, x);
    return weights_.Project(
        prefix + "down_proj", x.size(), Times(Each(Silu, gate), up));
  }

  const nlohmann::json& config_;
  const ReferenceWeights& weights_;
  std::vector<std::unique_ptr<ReferenceMixer>> mixers_;
};

}  // namespace

nlohmann::json SmallDecoder(const char* model_type,
                            const nlohmann::json& keys) {
  nlohmann::json config = {{"model_type", model_type},
                           {"hidden_size", 24},
                           {"num_hidden_layers", 2},
                           {"vocab_size", 50},
                           {"intermediate_size", 40},
                           {"norm_eps", 1e-5}};
  config.update(keys);
  return config;
}

FormulaCase::FormulaCase(const Formula& formula)
    : formula_(formula),
      spec_(Accepted(formula.config)),
      parts_(LayerOf(spec_)) {
  mixer_ = parts_[0].part.get();
  std::mt19937_64 random(kSeed);
  for (const WeightSlot& slot : mixer_->Weights()) {
    const auto values = Draw(formula, slot.name, slot.shape, random);
    Place(slot, values);
    weights_.Add(slot.name, slot.shape, values);
  }
  mixer_->Prepare();
  auto pool =
      StatePool::Create({.tensors = mixer_->State()}, {.slots = kSlots});
  EXPECT_TRUE(pool.ok()) << pool.status();
  WEIR_CHECK(pool.ok());
  pool_ = *std::move(pool);
}

int32_t FormulaCase::NewSlot() {
  const auto slot = pool_->Acquire();
  WEIR_CHECK(slot.ok());
  return *slot;
}

std::vector<float> FormulaCase::Input(int64_t tokens, int64_t period) const {
  std::mt19937_64 random(kSeed + 1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * hidden()));
  const auto repeated = static_cast<size_t>(period * hidden());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = repeated > 0 && i >= repeated ? x[i - repeated] : normal(random);
  }
  return x;
}

std::vector<float> FormulaCase::Run(std::span<const int32_t> slots,
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

std::vector<float> FormulaCase::Feed(int32_t slot,
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

std::vector<float> FormulaCase::Expected(std::span<const float> x) const {
  const auto reference = formula_.reference(layer());
  std::vector<float> out;
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(hidden())) {
    const auto token = x.subspan(at, static_cast<size_t>(hidden()));
    for (const double y : reference->Step(Vector(token.begin(), token.end()))) {
      out.push_back(static_cast<float>(y));
    }
  }
  return out;
}

TensorFile DrawWeights(const Formula& formula) {
  const DecoderSpec spec = Accepted(formula.config);
  std::mt19937_64 random(kSeed);
  TensorFile file;
  const auto add = [&](const std::string& name,
                       const std::vector<int64_t>& shape) {
    file.Add(name, shape, Draw(formula, name, shape, random));
  };
  const auto add_norm = [&](const std::string& name) {
    for (const WeightSlot& slot :
         NormWeights(spec.norm, spec.hidden).Weights(name)) {
      add(slot.name, slot.shape);
    }
  };
  add(spec.names.embedding, {spec.vocabulary, spec.hidden});
  if (!spec.names.first_norm.empty()) add_norm(spec.names.first_norm);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    for (LayerPart& part : MakeLayer(spec, layer)) {
      for (const WeightSlot& slot : part.Weights()) add(slot.name, slot.shape);
    }
  }
  add_norm(spec.names.final_norm);
  add(spec.names.head, {spec.vocabulary, spec.hidden});
  return file;
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

void ExpectEveryLength(FormulaCase& mixer,
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

void ExpectAnySplit(FormulaCase& mixer,
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
void ExpectNeighboursDoNotMatter(FormulaCase& mixer,
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

void ExpectSavedAndLoaded(FormulaCase& mixer, std::span<const float> x) {
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

void ExpectMixer(const Formula& formula) {
  FormulaCase mixer(formula);
  const std::vector<float> x = mixer.Input(300);
  const std::vector<float> want = mixer.Expected(x);
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

void ExpectLongStream(const Formula& formula, int64_t period) {
  FormulaCase mixer(formula);
  const std::vector<float> x = mixer.Input(kLongTokens, period);
  const std::vector<float> want = mixer.Expected(x);
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

namespace {

void ExpectClose(std::span<const float> got,
                 std::span<const float> want,
                 double rmse_max) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 1e-4) << "token " << i + 1;
  }
  EXPECT_LT(RelativeRmse(got, want), rmse_max);
}

// The scores of sessions that share each step, one for each of `pieces`, in
// rows of as many tokens.
std::vector<std::vector<float>> FeedTogether(Engine& engine,
                                             std::span<const uint32_t> tokens,
                                             std::span<const size_t> pieces) {
  std::vector<int32_t> slots;
  for (size_t i = 0; i < pieces.size(); ++i) {
    slots.push_back(*engine.AcquireSlot());
  }
  std::vector<std::vector<float>> scores(pieces.size());
  const auto least = *std::min_element(pieces.begin(), pieces.end());
  for (size_t step = 0; step * least < tokens.size(); ++step) {
    Plan plan;
    std::vector<size_t> of_row;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const size_t fed = std::min(step * pieces[i], tokens.size());
      const auto rest = tokens.subspan(fed);
      if (rest.empty()) continue;
      Row& row = plan.rows.emplace_back();
      row.slot = slots[i];
      row.tokens = rest.first(std::min(pieces[i], rest.size()));
      row.first = fed == 0;
      row.want_scores = true;
      of_row.push_back(i);
    }
    const StepResult result = RunStep(engine, plan);
    for (size_t row = 0; row < of_row.size(); ++row) {
      const std::vector<float>& more = result.rows[row].scores;
      std::vector<float>& all = scores[of_row[row]];
      all.insert(all.end(), more.begin(), more.end());
    }
  }
  return scores;
}

}  // namespace

void ExpectScores(const Formula& formula, double recurrent_rmse_max) {
  const ModelCopy model(formula.config, DrawWeights(formula));
  ReferenceWeights weights;
  for (const auto& [name, tensor] : model.weights.tensors) {
    weights.Add(name, tensor.shape, model.weights.Floats(name));
  }
  auto engine = TorchEngine::Create({.model_dir = model.path(), .slots = 6});
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->model().positions_max,
            Accepted(formula.config).positions_max);
  const auto tokens =
      RandomTokens((*engine)->model().vocabulary, kScoredTokens, kSeed);
  ReferenceDecoder reference(formula, weights);
  std::vector<float> want;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    want.push_back(
        static_cast<float>(reference.Score(tokens[t], tokens[t + 1])));
  }
  EXPECT_THAT(weights.Unread(), testing::IsEmpty());

  // The first token has no score.
  for (const size_t piece : {kScoredTokens, size_t{7}, size_t{1}}) {
    SCOPED_TRACE(piece);
    const auto scores =
        FeedInPieces(**engine, *(*engine)->AcquireSlot(), tokens, piece);
    ExpectClose(std::span(scores).subspan(1),
                want,
                IsShortRow(static_cast<int64_t>(piece)) ? recurrent_rmse_max
                                                        : kChunkRmseMax);
  }
  const std::vector<size_t> pieces = {5, 75, 1};
  for (const auto& scores : FeedTogether(**engine, tokens, pieces)) {
    ExpectClose(std::span(scores).subspan(1), want, kChunkRmseMax);
  }
}

TEST_P(FormulaTest, IsTheFormula) { ExpectMixer(GetParam()); }

TEST_P(FormulaTest, ScoresAreThoseOfTheFormula) { ExpectScores(GetParam()); }

std::string FormulaName(const testing::TestParamInfo<Formula>& info) {
  return info.param.name;
}

void PrintTo(const Formula& formula, std::ostream* stream) {
  *stream << formula.config.dump();
}

}  // namespace weir::engine
