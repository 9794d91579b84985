// SPDX-License-Identifier: Apache-2.0
#include "engine/model/config.h"

#include <cctype>
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

// Lower case, without underscores.
std::string Plain(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c != '_') {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

// How a family's own code calls its classes: mostly by the model_type, but for
// case and underscores, so that only the others stand here.
std::string_view ClassesOf(std::string_view model_type) {
  return model_type == "linear_attn" ? "LinearAttention" : model_type;
}

// Whether "FILE.CLASS" names a class as the family's own code calls it:
// "modeling_rwkv7.RWKV7ForCausalLM" of "rwkv7".
bool IsOwnClass(const nlohmann::json& value, const std::string& model_type) {
  if (!value.is_string()) return false;
  const std::string& path = value.get_ref<const std::string&>();
  const std::string name = Plain(path.substr(path.rfind('.') + 1));
  const std::string family = Plain(ClassesOf(model_type));
  if (!name.starts_with(family)) return false;
  for (const char* rest : {"config", "model", "forcausallm"}) {
    if (name.substr(family.size()) == rest) return true;
  }
  return false;
}

// auto_map has transformers import classes from files of the folder. Nothing of
// it is ever run here. Folders whose files only hand on the family's own
// classes are read as the family; others may compute anything and are refused.
void ReadAutoMap(ConfigFields& fields, DecoderSpec& spec) {
  const nlohmann::json& map = fields.Raw("auto_map");
  if (!fields.Has("auto_map") || map.is_null()) return;
  if (!map.is_object() || map.empty()) {
    fields.Fail("auto_map", "is not an object of class names");
    return;
  }
  for (const auto& [use, value] : map.items()) {
    if (use == "AutoTokenizer" || IsOwnClass(value, spec.family)) continue;
    fields.Fail("auto_map",
                absl::StrCat("names code of the folder's own, ",
                             Quoted(value.dump(-1, ' ', true)),
                             "; none is ever run, and this is no class of ",
                             spec.family));
    return;
  }
  spec.notes.push_back(
      "config.json names code of the folder's own (auto_map): it is not run, "
      "the model is read as " +
      spec.family);
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
  ReadAutoMap(fields, spec);
  family->read(fields, spec);
  WEIR_RETURN_IF_ERROR(fields.Finish());
  return spec;
}

}  // namespace weir::engine
