// SPDX-License-Identifier: Apache-2.0
//
// What flash-linear-attention's checkpoints have in common: a mixer `attn` and
// a SwiGLU `mlp`, each behind an RMS norm, `model.layers.N.` before both.
//
// Threads: plain functions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "engine/config/config_fields.h"
#include "engine/mixers/decoder_spec.h"

namespace weir::engine {

// Whether a folder that shares its model_type with one of transformers' is
// flash-linear-attention's: the two name the norms' eps otherwise.
bool IsFla(const ConfigFields& fields);

// Reads the sizes and the norms' eps: what a mixer's own keys build on.
void ReadFlaSizes(ConfigFields& fields, DecoderSpec& spec);

// Reads the other common keys and sets the layers. `make` makes the mixer of
// one; it is called after all keys have been found right.
void ReadFlaLayers(ConfigFields& fields,
                   DecoderSpec& spec,
                   std::function<std::unique_ptr<Mixer>(int32_t layer)> make);

// A fraction or a multiple of `whole` by a configured factor, which must come
// out whole and within 1 to kHeadDimMax.
int32_t ScaledDim(ConfigFields& fields,
                  const char* key,
                  double otherwise,
                  int32_t whole);

// The width of one of `heads` heads that share hidden times a factor; whole,
// and within 1 to kHeadDimMax.
int32_t HeadDim(ConfigFields& fields,
                const char* key,
                double otherwise,
                int32_t hidden,
                int32_t heads);

}  // namespace weir::engine
