// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/decoder_spec.h"

namespace weir::engine {

void ReadDecoderSizes(ConfigFields& fields,
                      DecoderSpec& spec,
                      const char* hidden,
                      const char* layers) {
  spec.hidden = static_cast<int32_t>(fields.Int(hidden, 1, kHiddenMax));
  spec.layers = static_cast<int32_t>(fields.Int(layers, 1, kLayersMax));
  spec.vocabulary =
      static_cast<int32_t>(fields.Int("vocab_size", 1, kVocabularyMax));
  spec.tied = fields.Bool("tie_word_embeddings", false);
  spec.trained_length = static_cast<uint64_t>(
      fields.Int("max_position_embeddings", 1, int64_t{1} << 40, 0));
  const auto& start = fields.Raw("bos_token_id");
  if (start.is_number_unsigned() &&
      start.get<uint64_t>() < static_cast<uint64_t>(spec.vocabulary)) {
    spec.start_token = start.get<uint32_t>();
  }
}

}  // namespace weir::engine
