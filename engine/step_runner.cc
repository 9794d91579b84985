// SPDX-License-Identifier: Apache-2.0
#include "engine/step_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/status_macros.h"
#include "engine/kernels/pointwise.h"
#include "engine/mixers/parallel.h"
#include "engine/sampling.h"

namespace weir::engine {
namespace {

// Logits held at once: as many rows as fit these bytes, within these bounds.
constexpr int64_t kLogitsBytes = int64_t{64} << 20;
constexpr int64_t kBlockRowsMin = 8;
constexpr int64_t kBlockRowsMax = 256;

int64_t BlockRows(int64_t vocabulary) {
  return std::clamp(
      kLogitsBytes / (vocabulary * static_cast<int64_t>(sizeof(float))),
      kBlockRowsMin,
      kBlockRowsMax);
}

}  // namespace

StepRunner::StepRunner(Model* model, StatePool* pool, int64_t pass_tokens_max)
    : model_(model),
      pool_(pool),
      hidden_(model->hidden()),
      vocabulary_(model->info().vocabulary),
      block_rows_(BlockRows(vocabulary_)),
      gathered_(block_rows_ * hidden_),
      logits_(block_rows_ * vocabulary_),
      passes_(pass_tokens_max) {}

absl::Status StepRunner::Allocate() {
  WEIR_RETURN_IF_ERROR(gathered_.Allocate());
  return logits_.Allocate();
}

float* StepRunner::Output(int32_t slot) {
  const size_t tensor = pool_->spec().tensors.size() - 1;
  return pool_->base(tensor) + slot * pool_->stride(tensor);
}

StepResult StepRunner::Run(std::span<const Row> rows) {
  StepResult result;
  result.rows.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].want_scores) {
      result.rows[i].scores.resize(rows[i].tokens.size(),
                                   std::numeric_limits<float>::quiet_NaN());
    }
  }
  passes_.Begin();
  while (true) {
    pieces_ = passes_.Next(rows);
    if (pieces_.empty()) break;
    RunPass(rows, result);
  }
  Draw(rows, result);
  return result;
}

void StepRunner::RunPass(std::span<const Row> rows, StepResult& result) {
  const auto first_long = std::stable_partition(
      pieces_.begin(), pieces_.end(), [](const Piece& piece) {
        return IsShortRow(piece.count);
      });
  row_starts_.assign(1, 0);
  slots_.clear();
  tokens_.clear();
  for (const Piece& piece : pieces_) {
    const auto tokens = rows[piece.row].tokens.subspan(
        static_cast<size_t>(piece.begin), static_cast<size_t>(piece.count));
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    row_starts_.push_back(static_cast<int32_t>(tokens_.size()));
    slots_.push_back(rows[piece.row].slot);
  }
  const Batch batch = {
      .rows = static_cast<int32_t>(pieces_.size()),
      .tokens = static_cast<int64_t>(tokens_.size()),
      .row_starts = row_starts_.data(),
      .slots = slots_.data(),
      .short_rows = static_cast<int32_t>(first_long - pieces_.begin())};
  const float* outputs = model_->Forward(batch, tokens_.data(), *pool_);

  // The slots still hold the output rows from before this pass.
  CollectWanted(rows, outputs, result);
  ScoreWanted(result);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const float* last = outputs + (row_starts_[i + 1] - 1) * hidden_;
    std::memcpy(Output(slots_[i]), last, hidden_ * sizeof(float));
    if (!AllFinite(last, hidden_)) result.rows[pieces_[i].row].finite = false;
  }
}

void StepRunner::CollectWanted(std::span<const Row> rows,
                               const float* outputs,
                               StepResult& result) {
  wanted_.clear();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const Row& row = rows[piece.row];
    if (!row.want_scores || !result.rows[piece.row].finite) continue;
    for (int64_t t = 0; t < piece.count; ++t) {
      const int64_t index = piece.begin + t;
      if (index == 0 && row.first) continue;  // nothing precedes it
      wanted_.push_back(
          {.row = piece.row,
           .index = index,
           .output = t == 0 ? Output(row.slot)
                            : outputs + (row_starts_[i] + t - 1) * hidden_,
           .token = row.tokens[static_cast<size_t>(index)]});
    }
  }
}

void StepRunner::ScoreWanted(StepResult& result) {
  const auto total = static_cast<int64_t>(wanted_.size());
  for (int64_t begin = 0; begin < total; begin += block_rows_) {
    const int64_t count = std::min(block_rows_, total - begin);
    targets_.resize(static_cast<size_t>(count));
    scores_.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& wanted = wanted_[static_cast<size_t>(begin + i)];
      std::memcpy(gathered_.data() + i * hidden_,
                  wanted.output,
                  hidden_ * sizeof(float));
      targets_[static_cast<size_t>(i)] = wanted.token;
    }
    model_->Logits(gathered_.data(), count, logits_.data());
    ParallelFor(count, 4 * vocabulary_, [&](int64_t from, int64_t to) {
      LogProbabilities(logits_.data(),
                       targets_.data(),
                       static_cast<int32_t>(vocabulary_),
                       scores_.data(),
                       from,
                       to);
    });
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& wanted = wanted_[static_cast<size_t>(begin + i)];
      RowResult& row = result.rows[wanted.row];
      const float score = scores_[static_cast<size_t>(i)];
      row.scores[static_cast<size_t>(wanted.index)] = score;
      if (std::isnan(score)) row.finite = false;
    }
  }
}

void StepRunner::Draw(std::span<const Row> rows, StepResult& result) {
  drawing_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].sample.has_value() && result.rows[i].finite) {
      drawing_.push_back(i);
    }
  }
  const auto block = static_cast<size_t>(block_rows_);
  for (size_t begin = 0; begin < drawing_.size(); begin += block) {
    const size_t count = std::min(block, drawing_.size() - begin);
    DrawBlock(
        rows, std::span<const size_t>(drawing_).subspan(begin, count), result);
  }
}

void StepRunner::DrawBlock(std::span<const Row> rows,
                           std::span<const size_t> drawing,
                           StepResult& result) {
  const auto count = static_cast<int64_t>(drawing.size());
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(gathered_.data() + i * hidden_,
                Output(rows[drawing[static_cast<size_t>(i)]].slot),
                hidden_ * sizeof(float));
  }
  model_->Logits(gathered_.data(), count, logits_.data());
  targets_.assign(static_cast<size_t>(count), 0);
  scores_.resize(static_cast<size_t>(count));
  ParallelFor(count, 16 * vocabulary_, [&](int64_t begin, int64_t end) {
    // The threads belong to the library; what they keep is bounded by the
    // vocabulary.
    thread_local SamplingScratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      const float* logits = logits_.data() + i * vocabulary_;
      if (!AllFinite(logits, vocabulary_)) continue;
      targets_[static_cast<size_t>(i)] =
          SampleToken({logits, static_cast<size_t>(vocabulary_)},
                      *rows[drawing[static_cast<size_t>(i)]].sample,
                      scratch);
    }
    // NaN where a logit is not finite, so that nothing was drawn.
    LogProbabilities(logits_.data(),
                     targets_.data(),
                     static_cast<int32_t>(vocabulary_),
                     scores_.data(),
                     begin,
                     end);
  });
  for (int64_t i = 0; i < count; ++i) {
    RowResult& row = result.rows[drawing[static_cast<size_t>(i)]];
    const float log_prob = scores_[static_cast<size_t>(i)];
    row.sampled = Sampled{.token = targets_[static_cast<size_t>(i)],
                          .log_prob = log_prob};
    if (std::isnan(log_prob)) row.finite = false;
  }
}

}  // namespace weir::engine
