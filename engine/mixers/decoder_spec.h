// SPDX-License-Identifier: Apache-2.0
//
// What a checkpoint's family says of a whole model: its sizes, the names of its
// tensors and what a layer is made of. A family (registry.h) fills it from
// config.json; engine/model/ builds the model from it.
//
// Threads: plain values; make_layer from one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config_fields.h"
#include "engine/mixers/linear.h"
#include "engine/mixers/mixer.h"

namespace weir::engine {

// What configurations may ask for.
inline constexpr int64_t kLayersMax = 1024;
inline constexpr int64_t kHiddenMax = 65'536;
inline constexpr int64_t kIntermediateMax = 1 << 20;
inline constexpr int64_t kVocabularyMax = 1 << 22;
inline constexpr int64_t kHeadsMax = 4096;
inline constexpr int64_t kHeadDimMax = 1024;
// What the convolution's kernel can do.
inline constexpr int64_t kConvWidthMin = 2;
inline constexpr int64_t kConvWidthMax = 8;
// Below it fp32 has no eps, and a row of zeros becomes NaN.
inline constexpr double kEpsMin = 1e-30;

// The norms around a decoder's parts.
struct NormShape {
  float eps = 0;
  bool centered = false;  // the mean is taken away first: LayerNorm
  bool bias = false;
};

// A part of a layer: it reads the norm of the residual stream and is added to
// it. Names follow the layer's prefix.
struct Sublayer {
  std::string norm;    // "attn_norm"
  std::string prefix;  // "attn."
  std::unique_ptr<Mixer> part;
};

// A tensor that a checkpoint may hold and nobody reads.
struct UnusedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// Full names of what lies outside the layers' parts.
struct TensorNames {
  std::string embedding = "model.embeddings.weight";
  std::string layers = "model.layers.";  // then "3." and a sublayer's names
  std::string final_norm = "model.norm";
  std::string head = "lm_head.weight";
  std::string first_norm = {};  // of the embedding; empty: there is none
};

struct DecoderSpec {
  std::string family;  // model_type: "gated_deltanet", "mamba2"
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t vocabulary = 0;
  bool tied = false;            // the head is the embedding
  uint64_t trained_length = 0;  // 0: not said
  uint64_t positions_max = 0;   // tokens of a session; 0: no limit
  std::optional<uint32_t> start_token;
  NormShape norm;
  std::optional<float> final_eps;  // of the final norm, if not norm's
  TensorNames names;
  float logit_cap = 0;  // logits become cap tanh(logits / cap); 0: none
  std::vector<UnusedTensor> unused;
  std::vector<std::string> notes;  // what an operator should know of the folder
  // Tensors that layers share, read before Mixer::Prepare.
  std::vector<WeightSlot> shared;
  std::function<std::vector<Sublayer>(int32_t layer)> make_layer;
};

// The keys that nearly all families have: hidden_size, num_hidden_layers,
// vocab_size, tie_word_embeddings, bos_token_id, max_position_embeddings.
// The first two have other names in some formats.
void ReadDecoderSizes(ConfigFields& fields,
                      DecoderSpec& spec,
                      const char* hidden = "hidden_size",
                      const char* layers = "num_hidden_layers");

}  // namespace weir::engine
