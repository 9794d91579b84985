// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "base/check.h"

namespace weir::engine {
namespace {

using Candidate = SamplingScratch::Candidate;

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                   std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

bool MoreProbable(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// Each token of `recent` once, however often it stands there.
void Penalise(std::span<const float> logits,
              std::span<const uint32_t> recent,
              float penalty,
              std::span<float> out) {
  for (const uint32_t token : recent) {
    if (token >= logits.size()) continue;
    const float logit = logits[token];
    out[token] = logit > 0 ? logit / penalty : logit * penalty;
  }
}

uint32_t MostProbable(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) -
                               logits.begin());
}

// Index of the weight in which `uniform` falls, when the weights lie end to
// end and their sum is one. Weights of 0 are never drawn.
size_t Draw(std::span<const float> weights, double total, double uniform) {
  const double target = uniform * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    sum += weights[i];
    last = i;
    if (target < sum) return i;
  }
  // Reached only by rounding, when uniform is nearly one.
  return last;
}

// The first `count` of the candidates become the most probable ones, sorted.
void SortFirst(std::vector<Candidate>& candidates, size_t count) {
  if (count < candidates.size()) {
    std::nth_element(candidates.begin(),
                     candidates.begin() + static_cast<ptrdiff_t>(count) - 1,
                     candidates.end(),
                     MoreProbable);
  }
  std::sort(candidates.begin(),
            candidates.begin() + static_cast<ptrdiff_t>(count),
            MoreProbable);
}

// How many of the most probable candidates reach `top_p` of `total`, the sum
// of the candidates' weights. Sorts only as far as it must look.
size_t CountTopP(std::vector<Candidate>& candidates,
                 float max_logit,
                 float temperature,
                 double top_p,
                 double total) {
  size_t sorted = std::min<size_t>(candidates.size(), 256);
  while (true) {
    SortFirst(candidates, sorted);
    double sum = 0;
    for (size_t i = 0; i < sorted; ++i) {
      sum += std::exp((candidates[i].logit - max_logit) / temperature);
      if (sum >= top_p * total) return i + 1;
    }
    if (sorted == candidates.size()) return sorted;
    sorted = std::min(candidates.size(), sorted * 8);
  }
}

// Draws among the tokens that top-k and top-p leave.
uint32_t DrawAmongTop(std::span<const float> logits,
                      const Sampling& sampling,
                      float max_logit,
                      double uniform,
                      SamplingScratch& scratch) {
  std::vector<Candidate>& candidates = scratch.candidates;
  candidates.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {logits[i], static_cast<uint32_t>(i)};
  }
  if (sampling.top_k > 0 &&
      static_cast<size_t>(sampling.top_k) < candidates.size()) {
    SortFirst(candidates, static_cast<size_t>(sampling.top_k));
    candidates.resize(static_cast<size_t>(sampling.top_k));
  }
  const float temperature = sampling.temperature;
  size_t kept = candidates.size();
  if (sampling.top_p < 1) {
    double total = 0;
    for (const Candidate& candidate : candidates) {
      total += std::exp((candidate.logit - max_logit) / temperature);
    }
    kept = CountTopP(candidates, max_logit, temperature, sampling.top_p, total);
  }

  scratch.weights.resize(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    float weight = std::exp((candidates[i].logit - max_logit) / temperature);
    if (weight < sampling.min_p) weight = 0;
    scratch.weights[i] = weight;
    total += weight;
  }
  return candidates[Draw(scratch.weights, total, uniform)].token;
}

}  // namespace

double UniformAt(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> bits = Philox4x32(
      {static_cast<uint32_t>(position),
       static_cast<uint32_t>(position >> 32),
       0,
       0},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t joined = (uint64_t{bits[1]} << 32 | bits[0]) >> 11;
  return static_cast<double>(joined) * 0x1p-53;
}

uint32_t SampleToken(std::span<const float> logits,
                     const Sampling& sampling,
                     SamplingScratch& scratch) {
  WEIR_CHECK(!logits.empty());
  if (sampling.repetition_penalty != 1 && !sampling.recent.empty()) {
    scratch.logits.assign(logits.begin(), logits.end());
    Penalise(
        logits, sampling.recent, sampling.repetition_penalty, scratch.logits);
    logits = scratch.logits;
  }
  if (sampling.temperature < std::numeric_limits<float>::min()) {
    return MostProbable(logits);
  }
  const float max_logit = *std::max_element(logits.begin(), logits.end());
  const double uniform = UniformAt(sampling.seed, sampling.position);
  if (sampling.top_k > 0 || sampling.top_p < 1) {
    return DrawAmongTop(logits, sampling, max_logit, uniform, scratch);
  }
  scratch.weights.resize(logits.size());
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    float weight = std::exp((logits[i] - max_logit) / sampling.temperature);
    if (weight < sampling.min_p) weight = 0;
    scratch.weights[i] = weight;
    total += weight;
  }
  return static_cast<uint32_t>(Draw(scratch.weights, total, uniform));
}

}  // namespace weir::engine
