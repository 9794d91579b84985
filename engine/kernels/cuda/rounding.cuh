// SPDX-License-Identifier: Apache-2.0
//
// Rounding of what rests as bf16: up or down by chance, each in proportion to
// its nearness. The chance is a function of the tokens consumed and the number,
// so that a step gives the same bits wherever it runs and in whichever slot,
// and a replayed graph's steps each give others.
//
// Threads: plain functions.
#pragma once

#include <cstdint>

namespace weir::engine {

// The seed of one state's rounding at one step.
__device__ inline uint32_t RoundingSeed(uint32_t seed, uint32_t consumed) {
  return seed * 0x27d4eb2fU ^ consumed * 0x165667b1U;
}

// What tells one step's rounding from another's, and one number's from another.
struct RoundingKey {
  uint32_t seed;
  uint32_t first = 0;  // the number that a tile's first is among its state's

  __device__ RoundingKey From(uint32_t number) const {
    return {seed, first + number};
  }
  __device__ uint32_t Bits(uint32_t number) const {
    uint32_t x = (first + number) * 0x9e3779b1U ^ seed;
    x ^= x >> 16;
    x *= 0x85ebca6bU;
    x ^= x >> 13;
    x *= 0xc2b2ae35U;
    return x ^ x >> 16;
  }
};

// Rounds to one of the two bf16 beside x; `chance` is 16 random bits.
__device__ inline uint32_t RoundByChance(float x, uint32_t chance) {
  const uint32_t bits = __float_as_uint(x);
  // An infinity or a NaN stays one: no carry may pass through its mantissa.
  if ((bits & 0x7f800000U) == 0x7f800000U) {
    return (bits >> 16) | ((bits & 0xffffU) != 0 ? 1U : 0U);
  }
  return (bits + chance) >> 16;
}

}  // namespace weir::engine
