// SPDX-License-Identifier: Apache-2.0
//
// Reads the keys of config.json one by one and remembers which were read, so
// that the others can be refused by name. The first error is kept; after it,
// the readers return a value in range.
//
// Threads: not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace weir::engine {

class ConfigFields {
 public:
  // `object` must outlive this. `path` is for the messages.
  ConfigFields(const nlohmann::json& object, std::string path);

  bool Has(const std::string& key) const;

  // A whole number from `low` to `high`; a missing key or null is
  // `otherwise`, or an error without one.
  int64_t Int(const std::string& key,
              int64_t low,
              int64_t high,
              std::optional<int64_t> otherwise = std::nullopt);
  // A finite number above `low`, at most `high`.
  double Number(const std::string& key,
                double low,
                double high,
                std::optional<double> otherwise = std::nullopt);
  bool Bool(const std::string& key, bool otherwise);
  // Two numbers, the first at least 0 and below the second, which may be
  // infinite, in any spelling that is met; `otherwise` for null.
  std::array<float, 2> Range(const std::string& key,
                             std::array<float, 2> otherwise);
  // One of `choices`.
  std::string OneOf(const std::string& key,
                    std::initializer_list<const char*> choices,
                    const char* otherwise);
  // Missing or null; else refused with `why`.
  void Null(const std::string& key, std::string_view why);
  // The raw value, or null.
  const nlohmann::json& Raw(const std::string& key);
  // Read by nothing and of no effect here.
  void Ignore(std::initializer_list<const char*> keys);

  void Fail(const std::string& key, std::string_view what);
  // The first error, and then a key that nobody has read. Keys of no effect in
  // any model and keys that begin with "_" are passed over.
  absl::Status Finish();

 private:
  const nlohmann::json* Value(const std::string& key);

  const nlohmann::json& object_;
  const std::string path_;
  std::set<std::string> read_;
  absl::Status status_;
};

}  // namespace weir::engine
