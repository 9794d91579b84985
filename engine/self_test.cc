// SPDX-License-Identifier: Apache-2.0
#include "engine/self_test.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace weir::engine {
namespace {

// More than a chunk, and some over.
constexpr uint64_t kTokens = 96;
constexpr uint64_t kDraws = 3;

// Tokens that a state can take, of those wanted.
uint64_t Within(const ModelInfo& model, uint64_t wanted) {
  return model.positions_max == 0 ? wanted
                                  : std::min(wanted, model.positions_max);
}

// As many as leave room for the draws.
std::vector<uint32_t> SomeTokens(const ModelInfo& model) {
  const uint64_t room = Within(model, kTokens + kDraws - 1);
  const uint64_t count = room < kDraws ? 1 : room - (kDraws - 1);
  std::vector<uint32_t> tokens(count);
  for (uint64_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<uint32_t>(i * model.vocabulary / count);
  }
  if (model.start_token) tokens[0] = *model.start_token;
  return tokens;
}

bool IsFinite(const RowResult& row, bool first) {
  return row.finite && row.sampled.has_value() &&
         std::isfinite(row.sampled->log_prob) &&
         std::all_of(row.scores.begin() + (first ? 1 : 0),
                     row.scores.end(),
                     [](float score) { return std::isfinite(score); });
}

// The numbers of a saved tensor.
std::vector<float> Numbers(const StateShare& tensor,
                           std::span<const std::byte> bytes) {
  const bool is_float = tensor.number == "f32";
  const size_t width = is_float ? sizeof(float) : sizeof(uint16_t);
  std::vector<float> numbers(bytes.size() / width);
  for (size_t i = 0; i < numbers.size(); ++i) {
    uint32_t bits = 0;
    // A bf16 is the upper half of a float; memory begins with the lower.
    std::memcpy(reinterpret_cast<std::byte*>(&bits) + sizeof(bits) - width,
                bytes.data() + i * width,
                width);
    std::memcpy(&numbers[i], &bits, sizeof(bits));
  }
  return numbers;
}

// The first tensor of the state that holds a NaN or an infinity; "the logits"
// if there is none.
absl::StatusOr<std::string> FirstNotFinite(Engine& engine, int32_t slot) {
  const ModelInfo& model = engine.model();
  std::vector<std::byte> state(model.state_bytes);
  WEIR_RETURN_IF_ERROR(engine.SaveSlot(slot, state));
  std::span<const std::byte> rest = state;
  for (const StateShare& tensor : model.state) {
    if (tensor.bytes > rest.size()) break;
    const std::vector<float> numbers =
        Numbers(tensor, rest.first(tensor.bytes));
    rest = rest.subspan(tensor.bytes);
    if (!std::all_of(numbers.begin(), numbers.end(), [](float number) {
          return std::isfinite(number);
        })) {
      return absl::StrCat("the state ", tensor.name);
    }
  }
  return "the logits";
}

absl::Status Feed(Engine& engine, const std::string& model_dir, int32_t slot) {
  std::vector<uint32_t> tokens = SomeTokens(engine.model());
  uint32_t fed = 0;
  const uint64_t draws = Within(engine.model(), kDraws);
  for (uint64_t draw = 0; draw < draws; ++draw) {
    Row row;
    row.slot = slot;
    row.tokens = tokens;
    row.first = draw == 0;
    row.want_scores = true;
    row.sample.emplace().temperature = 0;
    WEIR_ASSIGN_OR_RETURN(const Ticket ticket, engine.Submit({.rows = {row}}));
    WEIR_ASSIGN_OR_RETURN(const StepResult result, engine.Wait(ticket));
    fed += static_cast<uint32_t>(tokens.size());
    if (!IsFinite(result.rows[0], row.first)) {
      WEIR_ASSIGN_OR_RETURN(const std::string what,
                            FirstNotFinite(engine, slot));
      return absl::FailedPreconditionError(
          absl::StrCat("SELF_TEST: ",
                       model_dir,
                       ": after ",
                       fed,
                       " tokens of a self-test ",
                       what,
                       " is not finite: the weights are damaged or overflow in "
                       "fp32; compare them with their publisher's checksums or "
                       "convert them anew"));
    }
    tokens = {result.rows[0].sampled->token};
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SelfTest(Engine& engine, const std::string& model_dir) {
  WEIR_ASSIGN_OR_RETURN(const int32_t slot, engine.AcquireSlot());
  absl::Status status = Feed(engine, model_dir, slot);
  engine.ReleaseSlot(slot);
  return status;
}

}  // namespace weir::engine
