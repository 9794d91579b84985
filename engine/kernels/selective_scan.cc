// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/selective_scan.h"

#include <cmath>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

double SoftplusOf(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// One channel of one row; `s` is its state.
void ScanChannel(const SelectiveScanArgs& args,
                 int32_t row,
                 int64_t channel,
                 std::vector<double>& s) {
  for (int64_t t = args.row_starts[row]; t < args.row_starts[row + 1]; ++t) {
    const double x = args.x.data[t * args.x.stride + channel];
    const double raw = args.dt.data[t * args.dt.stride + channel];
    const double dt = SoftplusOf(raw + args.dt_bias[channel]);
    const float* b = args.b.data + t * args.b.stride;
    const float* c = args.c.data + t * args.c.stride;
    double y = x * args.d[channel];
    for (int64_t n = 0; n < args.states; ++n) {
      const double rate = args.rate[n * args.channels + channel];
      s[n] = std::exp2(dt * rate) * s[n] + dt * x * b[n];
      y += s[n] * c[n];
    }
    if (args.z.data != nullptr) {
      const double z = args.z.data[t * args.z.stride + channel];
      y *= z / (1 + std::exp(-z));
    }
    args.out[t * args.out_stride + channel] = static_cast<float>(y);
  }
}

}  // namespace

int64_t ScanBlocks(int32_t channels) {
  return (int64_t{channels} + kScanBlock - 1) / kScanBlock;
}

void SelectiveScanReference(const SelectiveScanArgs& args) {
  std::vector<double> s(args.states);
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      float* state = args.state + args.slots[row] * args.state_stride + channel;
      for (int64_t n = 0; n < args.states; ++n) {
        s[n] = state[n * args.channels];
      }
      ScanChannel(args, row, channel, s);
      for (int64_t n = 0; n < args.states; ++n) {
        state[n * args.channels] = static_cast<float>(s[n]);
      }
    }
  }
}

void SelectiveScan(const SelectiveScanArgs& args, int64_t begin, int64_t end) {
  Kernels().selective_scan(args, begin, end);
}

}  // namespace weir::engine
