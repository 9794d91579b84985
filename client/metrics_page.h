// SPDX-License-Identifier: Apache-2.0
//
// A metrics page in the Prometheus text format, read, and what can be
// computed from one or two readings of it.
//
// Threads: values; pure functions.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace weir::client {

using Labels = std::map<std::string, std::string, std::less<>>;

struct Sample {
  Labels labels;
  double value = 0;
};

// A histogram's cumulative counts, series of one name added together.
struct Histogram {
  std::map<double, double> buckets;  // upper bound (also +Inf) -> count
  double sum = 0;
  double count = 0;

  // What came since an earlier reading; all of it if the server has restarted.
  Histogram Since(const Histogram& before) const;
  // By linear interpolation within a bucket; NaN if it is empty. Beyond the
  // last finite bound: that bound.
  double Quantile(double q) const;
  double Mean() const;
};

class MetricsPage {
 public:
  // INVALID_ARGUMENT with the line's number for what is not the format.
  static absl::StatusOr<MetricsPage> Parse(std::string_view text);

  const std::vector<Sample>& Samples(std::string_view name) const;
  // All series of the name with these labels, added; `missing` if there is
  // none.
  double Sum(std::string_view name,
             const Labels& labels = {},
             double missing = 0) const;
  // One label's value of the first series; empty if there is none.
  std::string Label(std::string_view name, std::string_view label) const;
  Histogram HistogramOf(std::string_view name, const Labels& labels = {}) const;

 private:
  std::map<std::string, std::vector<Sample>, std::less<>> samples_;
};

}  // namespace weir::client
