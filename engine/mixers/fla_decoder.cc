// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/fla_decoder.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/mixers/feed_forward.h"

namespace weir::engine {
namespace {

// Where a checkpoint leaves the width open, its authors' rule: two thirds of
// hidden times ratio, up to the next multiple of 256.
int64_t ReadIntermediate(ConfigFields& fields, int32_t hidden) {
  const double ratio = fields.Number("hidden_ratio", 0, 64, 4.0);
  const auto open = static_cast<int64_t>(hidden * ratio * 2 / 3);
  const int64_t rounded = (open + 255) / 256 * 256;
  const int64_t width =
      fields.Int("intermediate_size", 1, kIntermediateMax, rounded);
  if (width < 1 || width > kIntermediateMax) {
    fields.Fail("hidden_ratio", "makes an intermediate size out of range");
    return 1;
  }
  return width;
}

}  // namespace

bool IsFla(const ConfigFields& fields) {
  return fields.Has("norm_eps") && !fields.Has("layer_norm_epsilon");
}

void ReadFlaSizes(ConfigFields& fields, DecoderSpec& spec) {
  ReadDecoderSizes(fields, spec);
  // Old folders have the longer name.
  const char* key = fields.Has("rms_norm_eps") ? "rms_norm_eps" : "norm_eps";
  spec.norm.eps = static_cast<float>(fields.Number(key, kEpsMin, 1, 1e-6));
}

void ReadFlaLayers(ConfigFields& fields,
                   DecoderSpec& spec,
                   std::function<std::unique_ptr<Mixer>(int32_t layer)> make) {
  const int32_t hidden = spec.hidden;
  const int64_t intermediate = ReadIntermediate(fields, hidden);
  fields.OneOf("hidden_act", {"swish", "silu"}, "swish");
  fields.Null("attn",
              "layers of attention beside the recurrent ones are not served");
  fields.Null("attnres_block_size",
              "attention over residual blocks is not served");
  if (!fields.Bool("elementwise_affine", true)) {
    fields.Fail("elementwise_affine", "norms without weights are not served");
  }
  spec.make_layer = [hidden, intermediate, make = std::move(make)](
                        int32_t layer) {
    std::vector<Sublayer> parts;
    parts.push_back(
        {.norm = "attn_norm", .prefix = "attn.", .part = make(layer)});
    parts.push_back({.norm = "mlp_norm",
                     .prefix = "mlp.",
                     .part = std::make_unique<SwiGlu>(hidden, intermediate)});
    return parts;
  };
}

int32_t HeadDim(ConfigFields& fields,
                const char* key,
                double otherwise,
                int32_t hidden,
                int32_t heads) {
  const double all = hidden * fields.Number(key, 0, 16, otherwise);
  const double dim = std::floor(all) / heads;
  if (dim < 1 || dim > kHeadDimMax || dim != std::floor(dim)) {
    fields.Fail(key,
                absl::StrCat("times hidden_size is ",
                             all,
                             ", which ",
                             heads,
                             " heads do not share evenly, 1 to ",
                             kHeadDimMax,
                             " each"));
    return 1;
  }
  return static_cast<int32_t>(dim);
}

int32_t ScaledDim(ConfigFields& fields,
                  const char* key,
                  double otherwise,
                  int32_t whole) {
  const double dim = whole * fields.Number(key, 0, 16, otherwise);
  const auto rounded = static_cast<int32_t>(std::lround(dim));
  if (rounded < 1 || rounded > kHeadDimMax || std::abs(dim - rounded) > 1e-5) {
    fields.Fail(key,
                absl::StrCat("times ",
                             whole,
                             " is ",
                             dim,
                             ", not a whole number from 1 to ",
                             kHeadDimMax));
    return 1;
  }
  return rounded;
}

}  // namespace weir::engine
