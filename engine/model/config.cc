// SPDX-License-Identifier: Apache-2.0
#include "engine/model/config.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/config/config_fields.h"
#include "engine/config/strict_json.h"
#include "engine/mixers/registry.h"

namespace weir::engine {
namespace {

absl::Status Bad(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("CONFIG: ", path, ": ", what));
}

// Null if no family has the model_type and the keys.
const Family* FamilyOf(ConfigFields& fields) {
  const auto& model_type = fields.Raw("model_type");
  for (const Family& family : Families()) {
    const bool named =
        family.unnamed ? model_type.is_null() : model_type == family.model_type;
    if (named && (family.claims == nullptr || family.claims(fields))) {
      return &family;
    }
  }
  return nullptr;
}

std::string Served() {
  std::set<std::string> names;
  for (const Family& family : Families()) names.insert(family.model_type);
  return absl::StrJoin(names, " ");
}

}  // namespace

absl::StatusOr<DecoderSpec> ParseConfig(std::string_view text,
                                        const std::string& path) {
  auto object = ParseStrictJson(QuoteNonFiniteWords(text),
                                {.depth = 16, .values = 100'000});
  if (!object.ok()) return Bad(path, std::string(object.status().message()));
  if (!object->is_object()) return Bad(path, "not an object");
  ConfigFields fields(*object, path);
  const Family* family = FamilyOf(fields);
  if (family == nullptr) {
    return Bad(
        path,
        absl::StrCat("key \"model_type\": ",
                     Quoted(fields.Raw("model_type").dump(-1, ' ', true)),
                     " with these keys is not served; these are: ",
                     Served()));
  }
  DecoderSpec spec;
  spec.family = family->model_type;
  family->read(fields, spec);
  WEIR_RETURN_IF_ERROR(fields.Finish());
  return spec;
}

}  // namespace weir::engine
