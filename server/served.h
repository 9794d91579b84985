// SPDX-License-Identifier: Apache-2.0
//
// What this server serves: constant from start to end.
//
// Threads: read from any.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "service/types.h"
#include "text/tokenizer.h"

namespace weir::server {

struct Served {
  std::string name;  // of the model, as clients ask for it
  engine::ModelInfo model;
  service::Limits limits;
  std::vector<service::Durability> durability;  // levels of the store
  std::string device = "cpu";
  // nullopt: the model takes and gives token ids only.
  std::optional<text::Tokenizer> tokenizer;
};

// What is running now, for GetServerInfo.
struct Running {
  service::ServiceInfo service;
  absl::Duration uptime;
  bool draining = false;
};

}  // namespace weir::server
