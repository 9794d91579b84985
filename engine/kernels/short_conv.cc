// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/short_conv.h"

#include <cmath>
#include <vector>

#include "engine/kernels/kernel_target.h"

namespace weir::engine {
namespace {

// One channel of one row: `inputs` are the W - 1 of the state and the row's.
void ConvolveChannel(const ShortConvArgs& args,
                     int32_t row,
                     int32_t channel,
                     std::vector<double>& inputs) {
  const int64_t first = args.row_starts[row];
  const int64_t last = args.row_starts[row + 1];
  float* state = args.state + args.slots[row] * args.state_stride + channel;
  inputs.clear();
  for (int64_t i = 0; i < args.width - 1; ++i) {
    inputs.push_back(state[i * args.channels]);
  }
  for (int64_t t = first; t < last; ++t) {
    inputs.push_back(args.x.data[t * args.x.stride + channel]);
    double y = args.bias != nullptr ? args.bias[channel] : 0;
    for (int64_t i = 0; i < args.width; ++i) {
      y += double{args.weight[i * args.channels + channel]} *
           inputs[t - first + i];
    }
    if (channel >= args.plain) y /= 1 + std::exp(-y);
    args.out[t * args.out_stride + channel] = static_cast<float>(y);
  }
  for (int64_t i = 0; i < args.width - 1; ++i) {
    state[i * args.channels] = static_cast<float>(inputs[last - first + i]);
  }
}

}  // namespace

void ShortConvReference(const ShortConvArgs& args) {
  std::vector<double> inputs;
  for (int32_t row = 0; row < args.rows; ++row) {
    if (args.slots[row] < 0) continue;
    for (int32_t channel = 0; channel < args.channels; ++channel) {
      ConvolveChannel(args, row, channel, inputs);
    }
  }
}

void ShortConv(const ShortConvArgs& args, int64_t begin, int64_t end) {
  Kernels().short_conv(args, begin, end);
}

}  // namespace weir::engine
