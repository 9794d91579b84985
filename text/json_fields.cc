// SPDX-License-Identifier: Apache-2.0
#include "text/json_fields.h"

#include "text/refusal.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

using nlohmann::json;

}  // namespace

JsonFields::JsonFields(std::string_view place, const json& value)
    : place_(place), value_(value) {
  if (!value.is_object()) status_ = Refusal(place_, ": is no object");
}

const json* JsonFields::Value(const char* name) {
  asked_.insert(name);
  if (!value_.is_object()) return nullptr;
  const auto found = value_.find(name);
  if (found == value_.end() || found->is_null()) return nullptr;
  return &*found;
}

std::string JsonFields::String(const char* name,
                               std::optional<std::string> absent) {
  const json* value = Value(name);
  if (value != nullptr && value->is_string()) {
    return value->get_ref<const std::string&>();
  }
  if (value == nullptr && absent) return *absent;
  Refuse(name, "is no text");
  return {};
}

bool JsonFields::Bool(const char* name, std::optional<bool> absent) {
  const json* value = Value(name);
  if (value != nullptr && value->is_boolean()) return value->get<bool>();
  if (value == nullptr && absent) return *absent;
  Refuse(name, "is neither true nor false");
  return false;
}

uint32_t JsonFields::Number(const char* name, uint32_t most) {
  const json* value = Value(name);
  if (value != nullptr && value->is_number_unsigned() &&
      value->get<uint64_t>() <= most) {
    return value->get<uint32_t>();
  }
  Refuse(name, absl::StrCat("is no number from 0 to ", most));
  return 0;
}

const json::array_t& JsonFields::Array(const char* name) {
  static const json::array_t* const empty = new json::array_t;
  const json* value = Value(name);
  if (value != nullptr && value->is_array()) {
    return value->get_ref<const json::array_t&>();
  }
  Refuse(name, "is no array");
  return *empty;
}

const json::object_t& JsonFields::Object(const char* name) {
  static const json::object_t* const empty = new json::object_t;
  const json* value = Value(name);
  if (value != nullptr && value->is_object()) {
    return value->get_ref<const json::object_t&>();
  }
  Refuse(name, "is no object");
  return *empty;
}

std::string JsonFields::Character(const char* name) {
  std::string text = String(name);
  if (!text.empty() && CodePointAt(text, 0).bytes == text.size()) return text;
  Refuse(name, "is not one character");
  return {};
}

void JsonFields::Ignore(const char* name) { asked_.insert(name); }

void JsonFields::Unused(const char* name) {
  const json* value = Value(name);
  if (value == nullptr || *value == json(false) || *value == json("") ||
      (value->is_number() && value->get<double>() == 0)) {
    return;
  }
  Refuse(name, "is set, which is not supported");
}

void JsonFields::Refuse(const char* name, std::string_view what) {
  if (status_.ok()) {
    status_ = Refusal(place_, ": ", Quoted(name), " ", View(what));
  }
}

absl::Status JsonFields::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& item : value_.items()) {
    if (asked_.contains(item.key())) continue;
    return Refusal(place_, ": ", Quoted(item.key()), " is not understood");
  }
  return absl::OkStatus();
}

}  // namespace weir::text
