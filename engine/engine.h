// SPDX-License-Identifier: Apache-2.0
//
// The mathematics on one device: slots that hold states, and steps over them.
// It knows no session, queue or clock, and starts no thread of its own.
//
// Threads: all calls from the one step thread; model() from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weir::engine {

// One tensor of a session's state.
struct StateShare {
  std::string name;            // "layers.3.attn.recurrent"
  std::vector<int64_t> shape;  // [heads, key, value]
  uint64_t bytes = 0;
  std::string number = "f32";  // or "bf16"
};

// What a loaded model is. Constant for an engine's life.
struct ModelInfo {
  std::string family;       // "gated_deltanet", "mamba2"
  std::string dtype;        // of the weights as stored: "bf16", "f32"
  uint64_t parameters = 0;  // tied ones counted once
  std::map<std::string, uint64_t> parameters_of;  // by dtype as stored
  uint64_t weight_bytes = 0;                      // as stored
  uint32_t vocabulary = 0;                        // token ids are below it
  uint32_t layers = 0;
  uint64_t state_bytes = 0;       // one session's, constant
  uint64_t slot_bytes = 0;        // what it takes in the pool, with padding
  std::vector<StateShare> state;  // whole, in the order of SaveSlot
  uint64_t trained_length = 0;    // tokens; 0 if the checkpoint does not say
  uint64_t positions_max = 0;  // tokens that a state can consume; 0: no limit
  bool byte_tokens = false;    // token ids are bytes: no tokenizer file and
                               // a vocabulary of at least 256
  std::optional<uint32_t> start_token;
  std::vector<std::string> notes;  // what an operator should know of the folder
};

// How to draw one token. Checked by the caller.
struct Sampling {
  float temperature = 1;  // 0: the most probable token
  int32_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  uint64_t seed = 0;                 // with `position`, keys the generator
  uint64_t position = 0;             // that the drawn token will have
  std::span<const uint32_t> recent;  // tokens to penalise, at most 1,024
};

// One session's share of a step: its tokens are fed to the state at `slot`,
// then a token may be drawn from the state as it is after them.
struct Row {
  int32_t slot = -1;
  // May be empty if `sample` is set. Lives until Wait has returned.
  std::span<const uint32_t> tokens;
  // Whether the slot has consumed nothing yet: the first token has no score.
  bool first = false;
  bool want_scores = false;
  std::optional<Sampling> sample;  // REQUIRES: the state has consumed a token
};

struct Plan {
  std::vector<Row> rows;  // no slot twice
};

struct Sampled {
  uint32_t token = 0;
  float log_prob = 0;  // natural log, under the model itself
};

struct RowResult {
  // With want_scores: one a token, natural log; NaN for the first token.
  std::vector<float> scores;
  std::optional<Sampled> sampled;
  // False: the state or a logit is not finite. The scores and the drawn token
  // mean nothing, and the slot must not be used but to be released or loaded.
  bool finite = true;
};

struct StepResult {
  std::vector<RowResult> rows;  // in the order of the plan
};

using Ticket = uint64_t;

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const ModelInfo& model() const = 0;

  // Starts a step. INVALID_ARGUMENT for a plan that breaks the rules above (a
  // slot that is not held or stands twice, a token beyond the vocabulary).
  // The plan's spans must live until Wait has returned. One step at a time.
  virtual absl::StatusOr<Ticket> Submit(const Plan& plan) = 0;
  // Waits for a step. INTERNAL if the device or the library failed: the
  // engine is then unfit, and the process should stop.
  virtual absl::StatusOr<StepResult> Wait(Ticket ticket) = 0;

  // Takes a free slot; it reads as a state that has consumed nothing.
  // RESOURCE_EXHAUSTED if there is none.
  virtual absl::StatusOr<int32_t> AcquireSlot() = 0;
  // Gives a slot back. REQUIRES: it is held and not in a step.
  virtual void ReleaseSlot(int32_t slot) = 0;
  // Copies a state, exact to the bit. REQUIRES: both held, not in a step.
  // INTERNAL as Wait.
  virtual absl::Status CopySlot(int32_t from, int32_t to) = 0;
  // Copies a state to or from model().state_bytes bytes of host memory, exact
  // to the bit. INVALID_ARGUMENT for another size.
  virtual absl::Status SaveSlot(int32_t slot, std::span<std::byte> host) = 0;
  virtual absl::Status LoadSlot(std::span<const std::byte> host,
                                int32_t slot) = 0;

  virtual int32_t slots() const = 0;
  virtual int32_t slots_free() const = 0;
};

}  // namespace weir::engine
