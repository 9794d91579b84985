// SPDX-License-Identifier: Apache-2.0
//
// The fields of one JSON object, each asked for by name and type. The first
// thing that is wrong is kept, and so is which fields nobody asked for: what is
// not understood is refused.
//
// Threads: not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace weir::text {

class JsonFields {
 public:
  // `place` names the object in messages. `value`, which is kept by reference,
  // may be of any type: it is refused if it is no object.
  JsonFields(std::string_view place, const nlohmann::json& value);

  // Where the field is missing or null, `absent`, or a refusal if there is
  // none.
  std::string String(const char* name,
                     std::optional<std::string> absent = std::nullopt);
  bool Bool(const char* name, std::optional<bool> absent = std::nullopt);
  // From 0 to `most`.
  uint32_t Number(const char* name, uint32_t most);
  // Null if the field is missing or null.
  const nlohmann::json* Value(const char* name);
  // The elements; none, and a refusal, if it is no array.
  const nlohmann::json::array_t& Array(const char* name);
  const nlohmann::json::object_t& Object(const char* name);
  // The one character that a field holds.
  std::string Character(const char* name);

  // For fields whose value changes nothing here.
  void Ignore(const char* name);
  // For fields whose value must be null, false, zero or empty.
  void Unused(const char* name);

  void Refuse(const char* name, std::string_view what);

  // What was wrong first; else whether there is a field nobody asked for.
  absl::Status Finish();

  const std::string& place() const { return place_; }

 private:
  const std::string place_;
  const nlohmann::json& value_;
  absl::flat_hash_set<std::string> asked_;
  absl::Status status_;
};

}  // namespace weir::text
