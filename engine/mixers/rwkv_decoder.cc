// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/rwkv_decoder.h"

#include <utility>

namespace weir::engine {
namespace {

// Where a checkpoint leaves the width open, its authors' rule: hidden times
// ratio, up to the next multiple of 32.
int64_t ReadIntermediate(ConfigFields& fields, int32_t hidden, double ratio) {
  const auto open = static_cast<int64_t>(
      hidden * fields.Number("hidden_ratio", 0, 64, ratio));
  const int64_t rounded = (open + 31) / 32 * 32;
  const int64_t width =
      fields.Int("intermediate_size", 1, kIntermediateMax, rounded);
  if (width < 1 || width > kIntermediateMax) {
    fields.Fail("hidden_ratio", "makes an intermediate size out of range");
    return 1;
  }
  return width;
}

}  // namespace

void ReadRwkvSizes(ConfigFields& fields, DecoderSpec& spec) {
  ReadDecoderSizes(fields, spec);
  spec.norm.eps =
      static_cast<float>(fields.Number("norm_eps", kEpsMin, 1, 1e-5));
  spec.norm.centered = true;
  spec.norm.bias = fields.Bool("norm_bias", true);
  if (fields.Bool("norm_first", true)) {
    spec.names.first_norm = spec.names.layers + "0.pre_norm";
  }
}

void ReadRwkvLayers(ConfigFields& fields,
                    DecoderSpec& spec,
                    RwkvVersion version,
                    double ratio,
                    std::function<std::unique_ptr<Mixer>(int32_t layer)> make) {
  const int32_t hidden = spec.hidden;
  const int64_t intermediate = ReadIntermediate(fields, hidden, ratio);
  fields.OneOf("hidden_act", {"sqrelu"}, "sqrelu");
  fields.OneOf("attn_mode", {"chunk", "fused_recurrent"}, "chunk");
  fields.Null("attn",
              "layers of attention beside the recurrent ones are not served");
  spec.make_layer = [version, hidden, intermediate, make = std::move(make)](
                        int32_t layer) {
    std::vector<Sublayer> parts;
    parts.push_back(
        {.norm = "attn_norm", .prefix = "attn.", .part = make(layer)});
    parts.push_back(
        {.norm = "ffn_norm",
         .prefix = "ffn.",
         .part = std::make_unique<ChannelMix>(version, hidden, intermediate)});
    return parts;
  };
}

}  // namespace weir::engine
