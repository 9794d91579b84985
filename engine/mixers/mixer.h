// SPDX-License-Identifier: Apache-2.0
//
// The sequence-mixing part of a layer, over a ragged batch of rows.
//
// Threads: Forward is called from the thread that runs the step, by one layer
// after another; it uses the library's threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/kernels/recurrence.h"
#include "engine/kernels/selective_scan.h"
#include "engine/kernels/short_conv.h"
#include "engine/mixers/linear.h"
#include "engine/state/state_pool.h"
#include "engine/state/state_spec.h"

namespace weir::engine {

// How rows go through a recurrence. All but the first are for tests.
enum class Form { kByLength, kRecurrent, kChunk, kReference };

// The rows of one pass. Row r owns tokens [row_starts[r], row_starts[r + 1])
// of the pass and the state of slots[r]; no slot stands twice.
struct Batch {
  int32_t rows = 0;
  int64_t tokens = 0;
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  // Rows [0, short_rows) are fed token by token, the others in chunks.
  int32_t short_rows = 0;
  Form form = Form::kByLength;
};

// Whether a row of `tokens` is fed token by token.
bool IsShortRow(int64_t tokens);

// One layer's tensors in the pool: `first` and those after it.
struct LayerState {
  StatePool* pool = nullptr;
  size_t first = 0;
};

struct MixerInput {
  const Batch* batch = nullptr;
  const float* x = nullptr;  // [tokens, hidden], contiguous
  LayerState state;
  // [tokens, shared_floats of the model], contiguous: what one layer leaves for
  // those after it within a pass.
  float* shared = nullptr;
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  // What the checkpoint must hold, with names that follow the layer's prefix.
  virtual std::vector<WeightSlot> Weights() = 0;
  // What a session holds, with names that follow the layer's prefix.
  virtual std::vector<StateTensor> State() const = 0;
  // Floats of workspace that Forward needs for each token.
  virtual int64_t workspace_floats() const = 0;

  // Floats of MixerInput::shared that it uses for each token.
  virtual int64_t shared_floats() const { return 0; }
  // Called once, when all weights are there.
  virtual void Prepare() {}

  // out [tokens, hidden], contiguous, apart from x. Reads and writes the state
  // of the rows' slots in place.
  virtual void Forward(const MixerInput& input,
                       float* workspace,
                       float* out) const = 0;
};

// Runs the recurrence over rows and heads, short rows and long ones each in
// the form that suits them. Fills in the fields that come from the batch.
void RunRecurrence(const Batch& batch, RecurrenceArgs args);
// Runs the convolution over the rows, likewise.
void RunShortConv(const Batch& batch, ShortConvArgs args);
// Runs the scan over the rows and blocks of channels, likewise.
void RunSelectiveScan(const Batch& batch, SelectiveScanArgs args);

}  // namespace weir::engine
