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
    return Mixed((first + number) * 0x9e3779b1U ^ seed);
  }
  // Of the pair of columns whose first is `column`, in all rows of the state.
  // With the bits of a row's first number, by exclusive or, these are the
  // chances of two numbers: any two numbers of a state, and of two steps, have
  // chances that do not depend on each other, and one operation makes both.
  __device__ uint32_t ColumnBits(uint32_t column) const {
    return Mixed(column * 0xc2b2ae3dU ^ ~seed);
  }

 private:
  __device__ static uint32_t Mixed(uint32_t x) {
    x ^= x >> 16;
    x *= 0x85ebca6bU;
    x ^= x >> 13;
    x *= 0xc2b2ae35U;
    return x ^ x >> 16;
  }
};

// Rounds to one of the two bf16 beside x; `chance` is 16 random bits. An
// infinity stays one, since what is added to its mantissa of zeros stays below
// the half that is kept.
__device__ inline uint32_t RoundFinite(float x, uint32_t chance) {
  return (__float_as_uint(x) + chance) >> 16;
}
// The same of what may be a NaN, which no carry may make a number.
__device__ inline uint32_t RoundByChance(float x, uint32_t chance) {
  return x != x ? 0x7fffU : RoundFinite(x, chance);
}

// Two numbers as a word, the first in the low half.
template <bool kFinite>
__device__ inline uint32_t RoundPair(float x, float y, uint32_t chance) {
  if constexpr (kFinite) {
    const uint32_t low = __float_as_uint(x) + (chance & 0xffffU);
    const uint32_t high = __float_as_uint(y) + (chance >> 16);
    return __byte_perm(low, high, 0x7632);
  } else {
    return RoundByChance(x, chance & 0xffffU) | RoundByChance(y, chance >> 16)
                                                    << 16;
  }
}

}  // namespace weir::engine
