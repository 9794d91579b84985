// SPDX-License-Identifier: Apache-2.0
//
// Drawing one token from logits. In this order: repetition penalty,
// temperature, top-k, top-p (within the k), min-p, then one draw.
//
// The draw takes its random number from a counter-based generator keyed by
// (seed, position): the same inputs give the same token, on any thread and
// after any restart.
//
// Threads: functions of their arguments; a scratch belongs to one call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace weir::engine {

// Memory that SampleToken reuses from call to call.
struct SamplingScratch {
  struct Candidate {
    float logit = 0;
    uint32_t token = 0;
  };
  std::vector<float> logits;
  std::vector<float> weights;
  std::vector<Candidate> candidates;
};

// The drawn token. A temperature of 0, or one too small for a normal float,
// means the most probable token, the lowest id among equals.
// REQUIRES: `logits` is not empty and finite; tokens of sampling.recent that
// lie beyond it are passed over.
uint32_t SampleToken(std::span<const float> logits,
                     const Sampling& sampling,
                     SamplingScratch& scratch);

// A number in [0, 1) with 53 random bits: Philox4x32-10 (Salmon et al. 2011),
// key `seed`, counter `position`.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace weir::engine
