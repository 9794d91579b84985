// SPDX-License-Identifier: Apache-2.0
//
// A recurrence over a ragged batch with memory of its own, for the conformance
// tests: every array has gaps between its tokens or slots, filled with a mark
// that no kernel may read into a result or write over.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// The combinations of decay, correction and read order that there are.
enum class RecurrenceKind {
  kPlain,       // one decay a head
  kDelta,       // the same and the delta rule
  kChannel,     // a decay a key channel: GLA
  kDecayed,     // the same, and a correction of the decayed state: KDA
  kUndecayed,   // a correction of the state before decay: RWKV-7
  kReadBefore,  // read before the write: RWKV-6
  kByValue,     // a decay a value channel: gated slots
};

struct NamedKind {
  const char* name;
  RecurrenceKind kind;
};

inline constexpr NamedKind kRecurrenceKinds[] = {
    {"Plain", RecurrenceKind::kPlain},
    {"Delta", RecurrenceKind::kDelta},
    {"Channel", RecurrenceKind::kChannel},
    {"Decayed", RecurrenceKind::kDecayed},
    {"Undecayed", RecurrenceKind::kUndecayed},
    {"ReadBefore", RecurrenceKind::kReadBefore},
    {"ByValue", RecurrenceKind::kByValue},
};

struct RecurrenceShape {
  int32_t heads = 1;
  int32_t key_heads = 1;
  int32_t key_dim = 64;
  int32_t value_dim = 64;
  RecurrenceKind kind = RecurrenceKind::kDelta;
};

enum class RecurrenceForm { kReference, kRecurrent, kChunk };

struct RecurrenceCase {
  // Rows of these lengths, row r on slot r; keys of length one, decays between
  // 1/2 and 0.999, betas between 0 and 1, a state that is not zero.
  RecurrenceCase(RecurrenceShape shape_in,
                 const std::vector<int32_t>& row_tokens,
                 uint32_t seed);

  RecurrenceArgs Args();
  // The whole batch, or its work items [begin, end).
  void Run(RecurrenceForm form);
  void Run(RecurrenceForm form, int64_t begin, int64_t end);

  // Gives every token the keys, queries and values of token t % period.
  void RepeatTokens(int32_t period);
  void SetLog2Decay(float value);
  void SetBeta(float value);

  // The log2 decays of one token.
  int64_t decays() const;
  // The correction that its kind makes of keys, decays and betas.
  void DeriveCorrection();

  // Without the gaps.
  std::vector<float> RowOut(int32_t row) const;
  std::vector<float> SlotState(int32_t slot) const;
  std::vector<float> AllOut() const;
  std::vector<float> AllStates() const;
  // Whether every mark is still in its place.
  bool GapsUntouched() const;

  RecurrenceShape shape;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> slots;
  int64_t tokens = 0;
  int32_t slot_count = 0;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  int64_t gate_stride = 0;  // of beta
  int64_t decay_stride = 0;
  int64_t correction_stride = 0;
  int64_t state_stride = 0;
  std::vector<float> q, k, v, log2_decay, beta, a, b, bonus, out, state;
};

inline constexpr float kGapMark = -7.5e30F;

// sqrt(sum (got - want)^2 / sum want^2); infinite if a NaN is in one only. What
// is below 1e-30 counts as 1e-30: fp32 cannot follow a state that fades to 0.
double RelativeRmse(const std::vector<float>& got,
                    const std::vector<float>& want);

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace weir::engine
