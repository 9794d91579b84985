// SPDX-License-Identifier: Apache-2.0
//
// What `weir top` shows, as text: from one reading of the metrics page, or
// from two for the rates between them.
//
// Threads: pure functions.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "client/metrics_page.h"
#include "nlohmann/json.hpp"

namespace weir::client {

struct Reading {
  MetricsPage page;
  absl::Time time;
};

// `before` may be null: then rates are means since the server's start, and
// quantiles cover all of it.
std::string RenderTop(const Reading& now,
                      const Reading* before,
                      const std::string& address,
                      int width);
nlohmann::ordered_json TopJson(const Reading& now, const Reading* before);

}  // namespace weir::client
