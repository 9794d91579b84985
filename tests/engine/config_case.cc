// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/config_case.h"

#include <utility>

#include "base/check.h"
#include "engine/model/config.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {

using nlohmann::json;

json ConfigOf(const std::string& relative) {
  return json::parse(ReadFileBytes(SourcePath(relative + "/config.json")));
}

absl::StatusOr<DecoderSpec> Parse(const json& config) {
  return ParseConfig(config.dump(), "config.json");
}

DecoderSpec Accepted(const json& config) {
  auto spec = Parse(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  WEIR_CHECK(spec.ok());
  return *std::move(spec);
}

std::vector<Sublayer> LayerOf(const DecoderSpec& spec) {
  return spec.make_layer(0);
}

void ExpectRefused(const json& good,
                   const std::vector<BadValue>& cases,
                   std::initializer_list<std::span<const BadValue>> more) {
  ASSERT_TRUE(Parse(good).ok()) << Parse(good).status();
  std::vector<BadValue> all = cases;
  for (const auto& table : more) {
    all.insert(all.end(), table.begin(), table.end());
  }
  for (const BadValue& bad : all) {
    // Spliced in as text: not every value here is JSON that a tree can hold.
    json config = good;
    config[bad.key] = "@VALUE@";
    std::string text = config.dump();
    const std::string mark = "\"@VALUE@\"";
    text.replace(text.find(mark), mark.size(), bad.value);

    const auto parsed = ParseConfig(text, "config.json");

    ASSERT_FALSE(parsed.ok()) << bad.key << " " << bad.value;
    const std::string message(parsed.status().message());
    EXPECT_EQ(
        message.rfind(
            "CONFIG: config.json: key \"" + std::string(bad.key) + "\"", 0),
        0u)
        << message;
  }
}

}  // namespace weir::engine
