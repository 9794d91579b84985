// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/mixer.h"

#include "engine/mixers/parallel.h"

namespace weir::engine {

bool IsShortRow(int64_t tokens) { return tokens < kChunkTokensMin; }

void RunRecurrence(const Batch& batch, RecurrenceArgs args) {
  if (batch.form == Form::kReference) {
    args.rows = batch.rows;
    args.row_starts = batch.row_starts;
    args.slots = batch.slots;
    RecurrenceReference(args);
    return;
  }
  const int32_t short_rows = batch.form == Form::kRecurrent ? batch.rows
                             : batch.form == Form::kChunk   ? 0
                                                            : batch.short_rows;
  const int32_t long_rows = batch.rows - short_rows;
  const int64_t state = int64_t{args.key_dim} * args.value_dim;
  args.rows = short_rows;
  args.row_starts = batch.row_starts;
  args.slots = batch.slots;
  if (short_rows > 0) {
    const int64_t tokens = batch.row_starts[short_rows];
    ParallelFor(int64_t{short_rows} * args.heads,
                state * (tokens / short_rows),
                [&](int64_t begin, int64_t end) {
                  RecurrenceRecurrent(args, begin, end);
                });
  }
  args.rows = long_rows;
  args.row_starts = batch.row_starts + short_rows;
  args.slots = batch.slots + short_rows;
  if (long_rows > 0) {
    ParallelFor(
        int64_t{long_rows} * args.heads,
        state * kChunkTokensMin,
        [&](int64_t begin, int64_t end) { RecurrenceChunk(args, begin, end); });
  }
}

void RunShortConv(const Batch& batch, ShortConvArgs args) {
  args.rows = batch.rows;
  args.row_starts = batch.row_starts;
  args.slots = batch.slots;
  ParallelFor(batch.rows * ChannelBlocks(args.channels),
              int64_t{kChannelBlock} * args.width * (batch.tokens / batch.rows),
              [&](int64_t begin, int64_t end) { ShortConv(args, begin, end); });
}

void RunSelectiveScan(const Batch& batch, SelectiveScanArgs args) {
  args.rows = batch.rows;
  args.row_starts = batch.row_starts;
  args.slots = batch.slots;
  if (batch.form == Form::kReference) {
    SelectiveScanReference(args);
    return;
  }
  // An exponential costs about as much as touching ten floats.
  constexpr int64_t kStateCost = 10;
  ParallelFor(
      batch.rows * ScanBlocks(args.channels),
      kStateCost * args.states * kScanBlock * (batch.tokens / batch.rows),
      [&](int64_t begin, int64_t end) { SelectiveScan(args, begin, end); });
}

}  // namespace weir::engine
