// SPDX-License-Identifier: Apache-2.0
#include "engine/device/step_plan.h"

#include <algorithm>

namespace weir::engine {
namespace {

constexpr int64_t kRecentMax = 1024;  // of a row, as engine.h has it
constexpr int32_t kPadding = -1;

// A slot's output row, as GatherOutputs takes it.
int32_t OutputOf(int32_t slot) { return -2 - slot; }

DrawRow DrawRowOf(const Sampling& sampling, int64_t begin, int64_t count) {
  return {.seed = sampling.seed,
          .position = sampling.position,
          .temperature = sampling.temperature,
          .top_k = sampling.top_k,
          .top_p = sampling.top_p,
          .min_p = sampling.min_p,
          .repetition_penalty = sampling.repetition_penalty,
          .recent_begin = static_cast<uint32_t>(begin),
          .recent_count = static_cast<uint32_t>(count),
          .is_active = 1};
}

}  // namespace

int64_t StagingBytes(int64_t rows, int64_t tokens, int64_t passes) {
  constexpr int64_t kArrays = 8;    // of a pass
  constexpr int64_t kPadding = 64;  // bytes, of an array
  // A pass has a row start more than rows, and a row may lie in several.
  const int64_t pieces = rows + 2 * passes;
  const int64_t of_pass = int64_t{5} * static_cast<int64_t>(sizeof(int32_t));
  const int64_t of_token = int64_t{3} * static_cast<int64_t>(sizeof(int32_t));
  const int64_t of_draw =
      static_cast<int64_t>(sizeof(int32_t) + sizeof(DrawRow)) +
      kRecentMax * static_cast<int64_t>(sizeof(uint32_t));
  return pieces * of_pass + tokens * of_token + rows * of_draw +
         (passes + 1) * kArrays * kPadding;
}

void StepPlanner::Plan(std::span<const Row> rows, StepPlan& plan) {
  staging_.Clear();
  plan = StepPlan{};
  passes_.Begin();
  while (true) {
    pieces_ = passes_.Next(rows);
    if (pieces_.empty()) break;
    PlanPass(rows, plan);
  }
  PlanDraws(rows, 0, plan);
}

void StepPlanner::PlanDecode(std::span<const Row> rows,
                             int32_t padded,
                             bool with_scores,
                             bool with_draws,
                             StepPlan& plan) {
  staging_.Clear();
  plan = StepPlan{};
  pieces_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].tokens.empty()) {
      pieces_.push_back({.row = i, .begin = 0, .count = 1});
    }
  }
  PassPlan pass = TakePass(padded, padded, with_scores ? padded : 0);
  FillPass(rows, pass, plan);
  plan.passes.push_back(pass);
  if (with_draws) PlanDraws(rows, padded, plan);
}

void StepPlanner::PlanPadding(int64_t rows, int64_t tokens, StepPlan& plan) {
  staging_.Clear();
  plan = StepPlan{};
  pieces_.clear();
  PassPlan pass = TakePass(rows, tokens, 0);
  FillPass({}, pass, plan);
  for (int64_t row = 0; row <= rows; ++row) {
    pass.row_starts.host[row] = static_cast<int32_t>(row * tokens / rows);
  }
  const int64_t longest = (tokens + rows - 1) / rows;
  const bool is_short = longest <= kShortRowTokensMax;
  pass.batch.short_rows = is_short ? static_cast<int32_t>(rows) : 0;
  pass.batch.short_tokens = is_short ? tokens : 0;
  pass.batch.short_tokens_max =
      static_cast<int32_t>(std::min(longest, kShortRowTokensMax));
  pass.batch.longest_row = static_cast<int32_t>(longest);
  plan.passes.push_back(pass);
}

void StepPlanner::PlanPass(std::span<const Row> rows, StepPlan& plan) {
  std::stable_partition(pieces_.begin(), pieces_.end(), [](const Piece& piece) {
    return piece.count <= kShortRowTokensMax;
  });
  int64_t tokens = 0;
  int64_t wanted = 0;
  for (const Piece& piece : pieces_) {
    const Row& row = rows[piece.row];
    tokens += piece.count;
    if (!row.want_scores) continue;
    wanted += piece.count - (piece.begin == 0 && row.first ? 1 : 0);
  }
  PassPlan pass = TakePass(std::ssize(pieces_), tokens, wanted);
  FillPass(rows, pass, plan);
  plan.passes.push_back(pass);
}

PassPlan StepPlanner::TakePass(int64_t rows, int64_t tokens, int64_t wanted) {
  PassPlan pass;
  pass.tokens = staging_.Take<uint32_t>(tokens);
  pass.row_starts = staging_.Take<int32_t>(rows + 1);
  pass.slots = staging_.Take<int32_t>(rows);
  pass.consumed = staging_.Take<uint32_t>(rows);
  pass.last = staging_.Take<int32_t>(rows);
  pass.plan_rows = staging_.Take<int32_t>(rows);
  pass.sources = staging_.Take<int32_t>(wanted);
  pass.targets = staging_.Take<uint32_t>(wanted);
  pass.batch.rows = static_cast<int32_t>(rows);
  pass.batch.tokens = tokens;
  pass.batch.row_starts = pass.row_starts.device;
  pass.batch.slots = pass.slots.device;
  pass.batch.consumed = pass.consumed.device;
  return pass;
}

void StepPlanner::FillPass(std::span<const Row> rows,
                           PassPlan& pass,
                           StepPlan& plan) {
  pass.tokens.Fill(0);
  pass.slots.Fill(kPadding);
  pass.consumed.Fill(0);
  pass.last.Fill(0);
  pass.plan_rows.Fill(0);
  pass.sources.Fill(kPadding);
  pass.targets.Fill(0);
  wanted_in_pass_ = 0;
  DeviceBatch& batch = pass.batch;
  int64_t token = 0;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const Row& row = rows[piece.row];
    if (row.want_scores) WantScores(row, piece, token, pass, plan);
    const auto tokens = row.tokens.subspan(static_cast<size_t>(piece.begin),
                                           static_cast<size_t>(piece.count));
    std::copy(tokens.begin(), tokens.end(), pass.tokens.host + token);
    pass.row_starts.host[i] = static_cast<int32_t>(token);
    pass.slots.host[i] = row.slot;
    pass.consumed.host[i] = DevicePool::ConsumedMark(pool_.consumed(row.slot));
    pass.plan_rows.host[i] = static_cast<int32_t>(piece.row);
    token += piece.count;
    pass.last.host[i] = static_cast<int32_t>(token - 1);
    pool_.Consume(row.slot, static_cast<uint64_t>(piece.count));
    batch.longest_row =
        std::max(batch.longest_row, static_cast<int32_t>(piece.count));
    if (piece.count > kShortRowTokensMax) continue;
    ++batch.short_rows;
    batch.short_tokens = token;
    batch.short_tokens_max =
        std::max(batch.short_tokens_max, static_cast<int32_t>(piece.count));
  }
  // Rows of padding have one token each where the batch has room for them.
  for (int64_t i = std::ssize(pieces_); i <= batch.rows; ++i) {
    pass.row_starts.host[i] = static_cast<int32_t>(token);
    if (token < batch.tokens) ++token;
  }
  if (std::ssize(pieces_) < batch.rows) {
    batch.short_rows = batch.rows;
    batch.short_tokens = batch.tokens;
  }
}

void StepPlanner::WantScores(const Row& row,
                             const Piece& piece,
                             int64_t first_token,
                             PassPlan& pass,
                             StepPlan& plan) {
  for (int64_t t = 0; t < piece.count; ++t) {
    const int64_t index = piece.begin + t;
    if (index == 0 && row.first) continue;  // nothing precedes it
    pass.sources.host[wanted_in_pass_] =
        t == 0 ? OutputOf(row.slot) : static_cast<int32_t>(first_token + t - 1);
    pass.targets.host[wanted_in_pass_] = row.tokens[static_cast<size_t>(index)];
    ++wanted_in_pass_;
    plan.wanted.push_back({piece.row, static_cast<size_t>(index)});
  }
}

void StepPlanner::PlanDraws(std::span<const Row> rows,
                            int64_t padded,
                            StepPlan& plan) {
  int64_t recent = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].sample.has_value()) continue;
    plan.drawing.push_back(i);
    recent += std::ssize(rows[i].sample->recent);
  }
  const int64_t count = std::max(padded, std::ssize(plan.drawing));
  if (count == 0) return;
  DrawPlan& draws = plan.draws;
  draws.sources = staging_.Take<int32_t>(count);
  draws.rows = staging_.Take<DrawRow>(count);
  draws.recent = staging_.Take<uint32_t>(recent);
  draws.sources.Fill(kPadding);
  draws.rows.Fill(DrawRow{});
  int64_t used = 0;
  for (size_t i = 0; i < plan.drawing.size(); ++i) {
    const Row& row = rows[plan.drawing[i]];
    const Sampling& sampling = *row.sample;
    // The penalty falls on a token once, however often it stands there.
    distinct_.assign(sampling.recent.begin(), sampling.recent.end());
    std::sort(distinct_.begin(), distinct_.end());
    distinct_.erase(std::unique(distinct_.begin(), distinct_.end()),
                    distinct_.end());
    std::copy(distinct_.begin(), distinct_.end(), draws.recent.host + used);
    draws.sources.host[i] = OutputOf(row.slot);
    draws.rows.host[i] =
        DrawRowOf(sampling, used, static_cast<int32_t>(std::ssize(distinct_)));
    used += std::ssize(distinct_);
  }
}

}  // namespace weir::engine
