// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/rwkv7.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/rwkv.h"
#include "engine/mixers/parallel.h"
#include "engine/mixers/rwkv_decoder.h"

namespace weir::engine {
namespace {

// The two ways in which k k_k is brought to length one: the fused norm adds to
// the squares, the other one bounds the length from below by 1e-12.
constexpr float kFusedLengthEps = 1e-6F;
constexpr float kLengthEps = 1e-24F;

}  // namespace

Rwkv7::Rwkv7(const Rwkv7Shape& shape)
    : shape_(shape),
      shift_(shape.hidden, kMixes),
      r_projection_(shape.hidden, keys(), false),
      k_projection_(shape.hidden, keys(), false),
      v_projection_(shape.hidden, values(), false),
      out_projection_(values(), shape.hidden, false),
      decay_(shape.hidden, shape.decay_rank, keys(), Activation::kTanh, true),
      rate_(shape.hidden, shape.rate_rank, keys(), Activation::kNone, true),
      value_mix_(shape.first ? 0 : shape.hidden,
                 shape.first ? 0 : shape.value_rank,
                 shape.first ? 0 : values(),
                 Activation::kNone,
                 true),
      gate_(
          shape.hidden, shape.gate_rank, values(), Activation::kSigmoid, false),
      k_k_(keys()),
      k_a_(keys()),
      r_k_(keys()),
      norm_(values()),
      norm_bias_(values()) {}

std::vector<WeightSlot> Rwkv7::Weights() {
  const std::vector<int64_t> mix = {1, 1, shape_.hidden};
  std::vector<WeightSlot> slots = {
      shift_.Mix("x_r", mix, kR),
      shift_.Mix("x_w", mix, kW),
      shift_.Mix("x_k", mix, kK),
      shift_.Mix("x_v", mix, kV),
      shift_.Mix("x_a", mix, kA),
      shift_.Mix("x_g", mix, kG),
      r_projection_.Rows("r_proj.weight", 0, keys()),
      k_projection_.Rows("k_proj.weight", 0, keys()),
      v_projection_.Rows("v_proj.weight", 0, values()),
      out_projection_.Rows("o_proj.weight", 0, shape_.hidden),
      {.name = "k_k", .shape = {keys()}, .buffer = &k_k_},
      {.name = "k_a", .shape = {keys()}, .buffer = &k_a_},
      {.name = "r_k", .shape = {shape_.heads, shape_.key_dim}, .buffer = &r_k_},
      {.name = "g_norm.weight", .shape = {values()}, .buffer = &norm_},
      {.name = "g_norm.bias", .shape = {values()}, .buffer = &norm_bias_},
  };
  const auto add = [&slots](std::vector<WeightSlot> more) {
    std::move(more.begin(), more.end(), std::back_inserter(slots));
  };
  add(decay_.Weights("w_lora."));
  add(rate_.Weights("a_lora."));
  add(gate_.Weights("g_lora."));
  if (!shape_.first) add(value_mix_.Weights("v_lora."));
  return slots;
}

std::vector<StateTensor> Rwkv7::State() const {
  return {{.name = "recurrent",
           .shape = {shape_.heads, shape_.value_dim, shape_.key_dim}},
          shift_.State("shift")};
}

int64_t Rwkv7::middle() const {
  return std::max({shape_.decay_rank,
                   shape_.rate_rank,
                   shape_.value_rank,
                   shape_.gate_rank});
}

int64_t Rwkv7::workspace_floats() const {
  return int64_t{2} * shape_.hidden + 4 * keys() + 3 * values() + middle();
}

Rwkv7::Parts Rwkv7::PartsOf(float* workspace, int64_t tokens) const {
  const auto take = [&workspace, tokens](int64_t floats) {
    return std::exchange(workspace, workspace + tokens * floats);
  };
  Parts parts = {};
  parts.delta = take(shape_.hidden);
  parts.mixed = take(shape_.hidden);
  for (float** part : {&parts.r, &parts.w, &parts.k, &parts.rate}) {
    *part = take(keys());
  }
  for (float** part : {&parts.v, &parts.g, &parts.y}) *part = take(values());
  parts.middle = take(middle());
  return parts;
}

void Rwkv7::Project(const MixerInput& input, const Parts& parts) const {
  const int64_t tokens = input.batch->tokens;
  float* mixed = parts.mixed;
  shift_.Shift(input, input.state.first + 1, parts.delta);
  shift_.Lerp(input, parts.delta, kR, {}, mixed);
  r_projection_.Forward(mixed, tokens, parts.r);
  shift_.Lerp(input, parts.delta, kW, {}, mixed);
  decay_.Forward(mixed, tokens, parts.middle, parts.w);
  shift_.Lerp(input, parts.delta, kK, {}, mixed);
  k_projection_.Forward(mixed, tokens, parts.k);
  shift_.Lerp(input, parts.delta, kA, {}, mixed);
  rate_.Forward(mixed, tokens, parts.middle, parts.rate);
  shift_.Lerp(input, parts.delta, kG, {}, mixed);
  gate_.Forward(mixed, tokens, parts.middle, parts.g);
  shift_.Lerp(input, parts.delta, kV, {}, mixed);
  v_projection_.Forward(mixed, tokens, parts.v);
  MixValues(input, parts);
}

// REQUIRES: parts.mixed is the input of the values.
void Rwkv7::MixValues(const MixerInput& input, const Parts& parts) const {
  const int64_t tokens = input.batch->tokens;
  if (shape_.first) {
    std::copy_n(parts.v, tokens * values(), input.shared);
    return;
  }
  float* mix = parts.y;
  value_mix_.Forward(parts.mixed, tokens, parts.middle, mix);
  ParallelFor(tokens, 4 * values(), [&](int64_t begin, int64_t end) {
    Rwkv7Values(
        input.shared, mix, static_cast<int32_t>(values()), parts.v, begin, end);
  });
}

void Rwkv7::Recur(const MixerInput& input, const Parts& parts) const {
  const LayerState state = input.state;
  // The keys are as many as the hidden channels, so that a fits in mixed.
  float* a = parts.mixed;
  const Rwkv7TermArgs terms = {.heads = shape_.heads,
                               .key_dim = shape_.key_dim,
                               .eps = shape_.length_eps,
                               .k_k = k_k_.data(),
                               .k_a = k_a_.data(),
                               .w = parts.w,
                               .rate = parts.rate,
                               .k = parts.k,
                               .a = a};
  ParallelFor(input.batch->tokens, 8 * keys(), [&](int64_t begin, int64_t end) {
    Rwkv7Terms(terms, begin, end);
  });
  RunRecurrence(*input.batch,
                {.decay = DecayKind::kKey,
                 .heads = shape_.heads,
                 .key_heads = shape_.heads,
                 .key_dim = shape_.key_dim,
                 .value_dim = shape_.value_dim,
                 .q = {parts.r, keys()},
                 .k = {parts.k, keys()},
                 .v = {parts.v, values()},
                 .log2_decay = {parts.w, keys()},
                 .a = {a, keys()},
                 .b = {parts.rate, keys()},
                 .out = parts.y,
                 .out_stride = values(),
                 .state = state.pool->base(state.first),
                 .state_stride = state.pool->stride(state.first)});
}

// The norm, the bonus and the gate, in place in parts.y.
void Rwkv7::Finish(int64_t tokens, const Parts& parts) const {
  const GatedNormArgs norm = {.groups = shape_.heads,
                              .width = shape_.value_dim,
                              .x = {parts.y, values()},
                              .z = {},
                              .weight = norm_.data(),
                              .bias = norm_bias_.data(),
                              .eps = shape_.eps,
                              .centered = true,
                              .gate = GateKind::kNone,
                              .out = parts.y};
  const Rwkv7BonusArgs bonus = {.heads = shape_.heads,
                                .key_dim = shape_.key_dim,
                                .value_dim = shape_.value_dim,
                                .r_k = r_k_.data(),
                                .r = parts.r,
                                .k = parts.k,
                                .v = parts.v,
                                .g = parts.g,
                                .y = parts.y};
  ParallelFor(
      tokens, 4 * values() + 2 * keys(), [&](int64_t begin, int64_t end) {
        GatedNorm(norm, begin, end);
        Rwkv7Bonus(bonus, begin, end);
      });
}

void Rwkv7::Forward(const MixerInput& input,
                    float* workspace,
                    float* out) const {
  const int64_t tokens = input.batch->tokens;
  const Parts parts = PartsOf(workspace, tokens);
  Project(input, parts);
  Recur(input, parts);
  Finish(tokens, parts);
  out_projection_.Forward(parts.y, tokens, out);
}

namespace {

// A rank; where a configuration leaves it open, the authors' rule: `slope`
// times the root of the hidden size, to the nearest multiple of 32.
int32_t ReadRank(ConfigFields& fields,
                 const char* key,
                 double slope,
                 int32_t hidden) {
  const double open = std::nearbyint(slope * std::sqrt(hidden) / 32) * 32;
  const auto otherwise = std::max<int64_t>(32, static_cast<int64_t>(open));
  return static_cast<int32_t>(fields.Int(key, 1, kHiddenMax, otherwise));
}

void ReadHeads(ConfigFields& fields, Rwkv7Shape& shape) {
  const int32_t hidden = shape.hidden;
  const bool by_dim =
      !fields.Raw("head_dim").is_null() || fields.Raw("num_heads").is_null();
  if (by_dim) {
    shape.key_dim =
        static_cast<int32_t>(fields.Int("head_dim", 1, kHeadDimMax, 64));
    shape.heads = hidden / shape.key_dim;
  } else {
    shape.heads = static_cast<int32_t>(fields.Int("num_heads", 1, kHeadsMax));
    shape.key_dim = hidden / shape.heads;
  }
  if (shape.heads < 1 || shape.key_dim < 1 || shape.key_dim > kHeadDimMax ||
      shape.heads * shape.key_dim != hidden) {
    fields.Fail(by_dim ? "head_dim" : "num_heads",
                absl::StrCat("does not cut hidden_size, ",
                             hidden,
                             ", into heads of at most ",
                             kHeadDimMax));
    shape.heads = 1;
    shape.key_dim = 1;
  }
  if (fields.Int("num_heads", 1, kHeadsMax, shape.heads) != shape.heads) {
    fields.Fail("num_heads",
                absl::StrCat("is not hidden_size by head_dim, ", shape.heads));
  }
}

// One width for all layers, as the values of the first reach the others.
void ReadValueDim(ConfigFields& fields, int32_t layers, Rwkv7Shape& shape) {
  const auto& raw = fields.Raw("value_dim");
  int64_t width = shape.hidden;
  const auto differs = [&width](const nlohmann::json& entry) {
    return !entry.is_number_unsigned() || entry != width;
  };
  const nlohmann::json& first =
      raw.is_array() && !raw.empty() ? raw.front() : raw;
  if (first.is_number_unsigned() && first <= kHiddenMax) {
    width = first.get<int64_t>();
  }
  const bool wrong = raw.is_array()
                         ? raw.size() != static_cast<size_t>(layers) ||
                               std::any_of(raw.begin(), raw.end(), differs)
                         : !raw.is_null() && differs(raw);
  if (wrong) {
    fields.Fail("value_dim",
                "is not one whole number, nor one and the same for each layer");
    return;
  }
  shape.value_dim = static_cast<int32_t>(width / shape.heads);
  if (shape.value_dim < 1 || shape.value_dim > kHeadDimMax ||
      int64_t{shape.value_dim} * shape.heads != width) {
    fields.Fail("value_dim",
                absl::StrCat(width,
                             " does not make ",
                             shape.heads,
                             " heads of 1 to ",
                             kHeadDimMax));
  }
}

}  // namespace

void ReadRwkv7(ConfigFields& fields, DecoderSpec& spec) {
  ReadRwkvSizes(fields, spec);
  Rwkv7Shape shape;
  shape.hidden = spec.hidden;
  ReadHeads(fields, shape);
  ReadValueDim(fields, spec.layers, shape);
  const double wide = shape.key_dim / 64.0;
  shape.decay_rank =
      ReadRank(fields, "decay_low_rank_dim", 2.5 * wide, shape.hidden);
  shape.rate_rank =
      ReadRank(fields, "a_low_rank_dim", 2.5 * wide, shape.hidden);
  shape.value_rank =
      ReadRank(fields, "v_low_rank_dim", 1.7 * wide, shape.hidden);
  shape.gate_rank = ReadRank(fields, "gate_low_rank_dim", 5, shape.hidden);
  shape.length_eps =
      fields.Bool("fuse_norm", true) ? kFusedLengthEps : kLengthEps;
  shape.eps = static_cast<float>(shape.key_dim) * spec.norm.eps;
  ReadRwkvLayers(fields, spec, RwkvVersion::k7, 4, [shape](int32_t layer) {
    Rwkv7Shape own = shape;
    own.first = layer == 0;
    return std::make_unique<Rwkv7>(own);
  });
}

}  // namespace weir::engine
