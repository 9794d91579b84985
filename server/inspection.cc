// SPDX-License-Identifier: Apache-2.0
#include "server/inspection.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace weir::server {

std::string InspectionJson(const std::string& folder,
                           const engine::ModelInfo& model,
                           const std::optional<text::Tokenizer>& tokenizer) {
  using Json = nlohmann::ordered_json;
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  Json state = Json::array();
  for (const engine::StateShare& tensor : model.state) {
    state.push_back({{"name", tensor.name},
                     {"shape", tensor.shape},
                     {"bytes", tensor.bytes}});
  }
  Json json = {
      {"folder", folder},
      {"family", model.family},
      {"parameters", model.parameters},
      {"parameters_of", model.parameters_of},
      {"weight_bytes", model.weight_bytes},
      {"layers", model.layers},
      {"vocabulary", model.vocabulary},
      {"state_bytes", model.state_bytes},
      {"slot_bytes", model.slot_bytes},
      {"sessions_per_gib", model.slot_bytes == 0 ? 0 : kGiB / model.slot_bytes},
      {"state", state},
      {"trained_length", nullptr},
      {"positions_max", nullptr},
      {"start_token", nullptr},
      {"tokenizer", nullptr},
      {"notes", model.notes}};
  if (model.trained_length > 0) json["trained_length"] = model.trained_length;
  if (model.positions_max > 0) json["positions_max"] = model.positions_max;
  if (model.start_token) json["start_token"] = *model.start_token;
  if (tokenizer) {
    json["tokenizer"] = {{"kind", tokenizer->kind()},
                         {"tokens", tokenizer->size()}};
  }
  // A folder's name may be any bytes.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace weir::server
