// SPDX-License-Identifier: Apache-2.0
//
// Whose turn it is: from what waits to the rows of the next step.
//
// Decode rows (generations, and rows of one token) come first; what is left of
// the token budget goes round robin over the rest, so that one long prefill
// blocks nobody. A kind that got nothing in a step although it waited is owed
// a place in the next one, so that neither starves the other.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weir::service {

// One session's work that could run now.
struct WaitingRow {
  uint64_t key = 0;  // the session's turn: rows are served in its order
  int32_t slot = -1;
  int64_t tokens = 0;   // that wait; 0: a token is drawn without any
  bool decode = false;  // a generation
};

struct PlanLimits {
  int32_t rows_max = 0;
  int32_t tokens_max = 0;  // over all rows; a row without tokens counts as one
};

// Where the next step goes on; starts as {}.
struct PlanTurn {
  uint64_t decode_next = 0;   // the first key to serve
  uint64_t prefill_next = 0;  // likewise
  bool prefill_owed = false;
};

struct PlannedRow {
  size_t index = 0;    // into the waiting rows
  int64_t tokens = 0;  // of those that wait, from the first
};

struct StepPlan {
  std::vector<PlannedRow> rows;  // no slot twice
  PlanTurn turn;                 // for the next call
};

// A prefill row is not cut below this while others wait, because a chunk costs
// a pass over the weights of its own.
inline constexpr int64_t kPrefillQuantum = 64;

// Takes rows in the order of their keys, from the turn's on; of several with
// one slot only the first of `waiting`. REQUIRES: `waiting` is in the order of
// its keys; the limits are positive. Not empty if `waiting` is not.
StepPlan PlanStep(std::span<const WaitingRow> waiting,
                  const PlanLimits& limits,
                  const PlanTurn& turn);

}  // namespace weir::service
