// SPDX-License-Identifier: Apache-2.0
//
// The process_* metrics that every Prometheus client has: read from /proc at
// each scrape.
//
// Threads: any.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace weir::server {

std::vector<prometheus::MetricFamily> ProcessMetrics();

}  // namespace weir::server
