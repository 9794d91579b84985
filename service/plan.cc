// SPDX-License-Identifier: Apache-2.0
#include "service/plan.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"

namespace weir::service {
namespace {

struct Candidate {
  size_t index;
  uint64_t key;
  int64_t tokens;
};

struct Candidates {
  std::vector<Candidate> decode;
  std::vector<Candidate> prefill;
};

Candidates Sort(std::span<const WaitingRow> waiting) {
  Candidates sorted;
  absl::flat_hash_set<int32_t> slots;
  slots.reserve(waiting.size());
  for (size_t i = 0; i < waiting.size(); ++i) {
    const WaitingRow& row = waiting[i];
    if (!slots.insert(row.slot).second) continue;
    const bool decode = row.decode || row.tokens <= 1;
    (decode ? sorted.decode : sorted.prefill)
        .push_back({i, row.key, row.tokens});
  }
  return sorted;
}

// Puts the candidate whose turn it is first, the others behind it in order.
void Rotate(std::vector<Candidate>& candidates, uint64_t next) {
  const auto first = std::find_if(
      candidates.begin(), candidates.end(), [&](const Candidate& c) {
        return c.key >= next;
      });
  std::rotate(candidates.begin(), first, candidates.end());
}

}  // namespace

StepPlan PlanStep(std::span<const WaitingRow> waiting,
                  const PlanLimits& limits,
                  const PlanTurn& turn) {
  Candidates candidates = Sort(waiting);
  Rotate(candidates.decode, turn.decode_next);
  Rotate(candidates.prefill, turn.prefill_next);

  StepPlan plan{.rows = {}, .turn = turn};
  int64_t rows_left = limits.rows_max;
  int64_t tokens_left = limits.tokens_max;
  const int64_t kept = turn.prefill_owed && !candidates.prefill.empty() ? 1 : 0;
  for (const Candidate& row : candidates.decode) {
    const int64_t cost = std::max<int64_t>(row.tokens, 1);
    if (rows_left <= kept || tokens_left - cost < kept) break;
    plan.rows.push_back({row.index, row.tokens});
    plan.turn.decode_next = row.key + 1;
    --rows_left;
    tokens_left -= cost;
  }

  const size_t first_prefill = plan.rows.size();
  const int64_t served = std::min<int64_t>(
      static_cast<int64_t>(candidates.prefill.size()), rows_left);
  const int64_t share =
      served > 0 ? std::max(kPrefillQuantum, tokens_left / served) : 0;
  for (int64_t i = 0; i < served && tokens_left > 0; ++i) {
    const Candidate& row = candidates.prefill[i];
    const int64_t tokens = std::min({row.tokens, share, tokens_left});
    plan.rows.push_back({row.index, tokens});
    plan.turn.prefill_next = row.key + 1;
    tokens_left -= tokens;
  }
  // What short rows left goes to the long ones, in the same order.
  for (size_t i = first_prefill; i < plan.rows.size(); ++i) {
    PlannedRow& row = plan.rows[i];
    const int64_t more =
        std::min(waiting[row.index].tokens - row.tokens, tokens_left);
    row.tokens += more;
    tokens_left -= more;
  }
  plan.turn.prefill_owed =
      !candidates.prefill.empty() && plan.rows.size() == first_prefill;
  return plan;
}

}  // namespace weir::service
