// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/head_output.h"

#include <utility>

#include "engine/mixers/parallel.h"

namespace weir::engine {

HeadOutput::HeadOutput(const QkvShape& shape,
                       float eps,
                       GateKind gate,
                       std::string norm)
    : heads_(shape.heads),
      value_dim_(shape.value_dim),
      hidden_(shape.hidden),
      eps_(eps),
      gate_(gate),
      norm_name_(std::move(norm)),
      projection_(int64_t{heads_} * value_dim_, hidden_, false),
      norm_(value_dim_) {}

std::vector<WeightSlot> HeadOutput::Weights() {
  return {projection_.Rows("o_proj.weight", 0, hidden_),
          {.name = norm_name_, .shape = {value_dim_}, .buffer = &norm_}};
}

void HeadOutput::Forward(
    TokenRows o, TokenRows g, int64_t tokens, float* normed, float* out) const {
  const GatedNormArgs norm = {.groups = heads_,
                              .width = value_dim_,
                              .x = o,
                              .z = g,
                              .weight = norm_.data(),
                              .shared_weight = true,
                              .eps = eps_,
                              .gate = gate_,
                              .order = GateOrder::kAfterNorm,
                              .out = normed};
  const int64_t cost = int64_t{2} * heads_ * value_dim_;
  ParallelFor(tokens, cost, [&](int64_t begin, int64_t end) {
    GatedNorm(norm, begin, end);
  });
  projection_.Forward(normed, tokens, out);
}

}  // namespace weir::engine
