// SPDX-License-Identifier: Apache-2.0
//
// What flash-linear-attention's rwkv6 and rwkv7 have in common: a time mix
// `attn` and a channel mix `ffn`, each behind a LayerNorm, and a LayerNorm of
// the embedding, `pre_norm` of layer 0.
//
// Threads: plain functions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "engine/config/config_fields.h"
#include "engine/mixers/channel_mix.h"
#include "engine/mixers/decoder_spec.h"

namespace weir::engine {

// Reads the sizes and the norms: what a mixer's own keys build on.
void ReadRwkvSizes(ConfigFields& fields, DecoderSpec& spec);

// Reads the other common keys and sets the layers. `make` makes the time mix
// of one; it is called after all keys have been found right. hidden_ratio is
// `ratio` where the configuration does not say.
void ReadRwkvLayers(ConfigFields& fields,
                    DecoderSpec& spec,
                    RwkvVersion version,
                    double ratio,
                    std::function<std::unique_ptr<Mixer>(int32_t layer)> make);

}  // namespace weir::engine
