// SPDX-License-Identifier: Apache-2.0
#include "engine/device/recurrent_part.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kernels/cuda/chunk.h"

namespace weir::engine {
namespace {

constexpr int32_t kChunkValueStep = 64;

class RecurrentPart final : public DevicePart {
 public:
  struct Weights {
    MixerFront front;
    RecurrentGates gates;
    DeviceMemory angles;
    DeviceLinear gate_up;
    DeviceMemory skip;
    DeviceMemory norm;
    DeviceLinear out;
  };

  RecurrentPart(const RecurrentSource& from,
                StateNumber number,
                Weights weights)
      : front_(from.front),
        heads_(from.gates.heads),
        value_dim_(from.gates.value_dim),
        end_(from.end),
        number_(number),
        weights_(std::move(weights)) {}

  std::vector<DeviceTensor> State(StateNumber number) const override {
    std::vector<DeviceTensor> tensors = {
        {"recurrent", {heads_, value_dim_, front_.key_dim}, number}};
    for (DeviceTensor& tensor : weights_.front.State()) {
      tensors.push_back(std::move(tensor));
    }
    if (is_turned()) {
      tensors.push_back({"position", {2}, StateNumber::kFloat32});
    }
    return tensors;
  }

  int64_t workspace_bytes(int64_t tokens) const override {
    return Place(nullptr, tokens).bytes;
  }

  absl::Status Forward(const DeviceInput& input) const override {
    const Arrays arrays = Place(input.workspace, input.batch->tokens);
    const MixerFront& front = weights_.front;
    WEIR_RETURN_IF_ERROR(front.Forward(input, arrays.front, input.state + 1));
    if (is_turned()) WEIR_RETURN_IF_ERROR(Turn(input, arrays));
    WEIR_RETURN_IF_ERROR(
        weights_.gates.Forward(input, front, arrays.front, arrays.gates));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(Recur(input, arrays), "a mixer's recurrence"));
    WEIR_RETURN_IF_ERROR(Finish(input, arrays));
    return weights_.out.AddToResidual(input, arrays.normed);
  }

 private:
  // Of several writes a token, a row each.
  struct Writes {
    float* q = nullptr;           // [tokens, writes, key_heads, K]
    float* k = nullptr;           // likewise
    float* v = nullptr;           // [tokens, writes, heads, V]
    float* log2_decay = nullptr;  // [tokens, writes, heads]
    int32_t* starts = nullptr;    // [rows + 1]
  };
  // Of long rows in chunks, bf16. Of several writes a token, queries, keys and
  // values are a write's each.
  struct Chunks {
    void* mixed = nullptr;   // the front's, or queries alone
    void* keys = nullptr;    // the gates', if it makes any
    void* values = nullptr;  // likewise
    void* out = nullptr;     // [tokens, writes, heads, V]
    void* workspace = nullptr;
  };
  struct Arrays {
    MixerFront::Arrays front;
    RecurrentGates::Arrays gates;
    void* narrow = nullptr;  // what gate_up takes, rounded
    float* gate = nullptr;   // [tokens, heads, V]
    Writes writes;
    Chunks chunks;
    float* o = nullptr;      // [tokens, writes, heads, V]
    void* normed = nullptr;  // [tokens, heads, V] of the products' number
    int64_t bytes = 0;
  };

  bool is_turned() const { return weights_.angles.data() != nullptr; }
  int64_t keys() const { return int64_t{front_.key_heads} * front_.key_dim; }
  int64_t values() const { return int64_t{heads_} * value_dim_; }
  bool is_spread() const { return front_.writes > 1; }
  bool by_chunks() const {
    const int32_t k = front_.key_dim;
    return number_ == StateNumber::kBfloat16 && weights_.gates.fits_chunks() &&
           (k == 64 || k == 128 || (k == 256 && !weights_.gates.by_key())) &&
           value_dim_ % kChunkValueStep == 0 &&
           CanChunk(
               weights_.gates.by_key() ? DecayKind::kKey : DecayKind::kHead, k);
  }

  Arrays Place(void* base, int64_t tokens) const;
  absl::Status Turn(const DeviceInput& input, const Arrays& arrays) const;
  RecurrenceArgs RecurrenceOf(const DeviceInput& input,
                              const Arrays& arrays) const;
  cudaError_t Recur(const DeviceInput& input, const Arrays& arrays) const;
  cudaError_t Spread(const DeviceInput& input,
                     const Writes& writes,
                     RecurrenceArgs& step) const;
  ChunkArgs ChunkShape(int32_t rows,
                       int64_t tokens,
                       const RecurrenceArgs& step,
                       const Chunks& chunks) const;
  Chunks PlaceChunks(Workspace& workspace,
                     int64_t tokens,
                     const RecurrentGates::Arrays& gates) const;
  cudaError_t RoundForChunks(const DeviceInput& input,
                             const Arrays& arrays,
                             const RecurrenceArgs& step) const;
  cudaError_t RecurInChunks(const DeviceInput& input,
                            const Arrays& arrays,
                            const RecurrenceArgs& step) const;
  absl::Status Finish(const DeviceInput& input, const Arrays& arrays) const;

  const FrontShape front_;
  const int32_t heads_;  // value heads
  const int32_t value_dim_;
  const EndShape end_;
  const StateNumber number_;
  const Weights weights_;
};

RecurrentPart::Arrays RecurrentPart::Place(void* base, int64_t tokens) const {
  const int64_t rows = PaddedTokens(tokens);
  Workspace workspace(base);
  const auto take = [&](int64_t floats) {
    return static_cast<float*>(
        workspace.Take(rows * floats * static_cast<int64_t>(sizeof(float))));
  };
  const auto take_rounded = [&](int64_t numbers) {
    return workspace.Take(rows * numbers * NumberBytes(number_));
  };
  Arrays arrays;
  arrays.front = weights_.front.Place(workspace, rows);
  arrays.gates = weights_.gates.Place(workspace, rows);
  arrays.narrow = take_rounded(weights_.gate_up.inputs());
  arrays.gate = take(weights_.gate_up.outputs());
  const int64_t writes = front_.writes;
  arrays.o = take(writes * values());
  arrays.normed = take_rounded(values());
  if (writes > 1) {
    arrays.writes = {.q = take(writes * keys()),
                     .k = take(writes * keys()),
                     .v = take(writes * values()),
                     .log2_decay = take(writes * heads_),
                     // A row has a token at least.
                     .starts = static_cast<int32_t*>(workspace.Take(
                         (rows + 1) * static_cast<int64_t>(sizeof(int32_t))))};
  }
  if (by_chunks() && tokens > kShortRowTokensMax) {
    arrays.chunks = PlaceChunks(workspace, tokens, arrays.gates);
  }
  arrays.bytes = workspace.bytes();
  return arrays;
}

RecurrentPart::Chunks RecurrentPart::PlaceChunks(
    Workspace& workspace,
    int64_t tokens,
    const RecurrentGates::Arrays& gates) const {
  const int64_t writes = front_.writes;
  const auto take = [&](int64_t numbers) {
    return workspace.Take(PaddedTokens(tokens) * numbers *
                          NumberBytes(number_));
  };
  Chunks chunks;
  chunks.mixed = take(is_spread() ? writes * keys() : front_.width);
  if (is_spread()) {
    chunks.keys = take(writes * keys());
  } else if (weights_.gates.has_keys()) {
    chunks.keys = take(int64_t{heads_} * front_.key_dim);
  }
  if (is_spread() || weights_.gates.has_values()) {
    chunks.values = take(writes * values());
  }
  chunks.out = take(writes * values());
  RecurrenceArgs step;
  weights_.gates.FillIn(gates, step);
  const auto long_rows = static_cast<int32_t>(tokens / kShortRowTokensMax + 1);
  chunks.workspace = workspace.Take(
      ChunkWorkspaceBytes(ChunkShape(long_rows, tokens, step, chunks)));
  return chunks;
}

absl::Status RecurrentPart::Turn(const DeviceInput& input,
                                 const Arrays& arrays) const {
  const size_t position = input.state + 1 + weights_.front.State().size();
  return CudaStatus(
      TurnRows({.of = RaggedOf(*input.batch),
                .heads = front_.key_heads,
                .dim = front_.key_dim,
                .q = arrays.front.mixed + front_.q,
                .k = arrays.front.mixed + front_.k,
                .stride = front_.width,
                .angles = weights_.angles.as<double>(),
                .positions = static_cast<float*>(input.pool->base(position)),
                .position_stride = input.pool->stride(position)},
               input.stream),
      "a mixer's positions");
}

RecurrenceArgs RecurrentPart::RecurrenceOf(const DeviceInput& input,
                                           const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  const MixerFront& front = weights_.front;
  RecurrenceArgs step = {.rows = batch.rows,
                         .heads = heads_,
                         .key_heads = front_.key_heads,
                         .key_dim = front_.key_dim,
                         .value_dim = value_dim_,
                         .row_starts = batch.row_starts,
                         .slots = batch.slots,
                         .q = front.Mixed(arrays.front, front_.q),
                         .k = front.Mixed(arrays.front, front_.k),
                         .v = front.Mixed(arrays.front, front_.v),
                         .log2_decay = {},
                         .out = arrays.o,
                         .out_stride = values(),
                         .state_stride = input.pool->stride(input.state)};
  weights_.gates.FillIn(arrays.gates, step);
  return step;
}

cudaError_t RecurrentPart::Recur(const DeviceInput& input,
                                 const Arrays& arrays) const {
  const DeviceBatch& batch = *input.batch;
  RecurrenceArgs step = RecurrenceOf(input, arrays);
  cudaError_t status = cudaSuccess;
  if (is_spread()) status = Spread(input, arrays.writes, step);
  if (status != cudaSuccess) return status;
  if (by_chunks() && batch.short_rows < batch.rows) {
    status = RecurInChunks(input, arrays, step);
    step.rows = batch.short_rows;
  }
  if (status != cudaSuccess) return status;
  return RecurrenceDecode({.step = step,
                           .number = input.state_number,
                           .state = input.pool->base(input.state),
                           .consumed = batch.consumed,
                           .rounding_seed = static_cast<uint32_t>(input.state)},
                          input.stream);
}

// To the recurrence a write is a token.
cudaError_t RecurrentPart::Spread(const DeviceInput& input,
                                  const Writes& writes,
                                  RecurrenceArgs& step) const {
  const cudaError_t status =
      SpreadWrites({.of = RaggedOf(*input.batch),
                    .writes = front_.writes,
                    .heads = heads_,
                    .keys = static_cast<int32_t>(keys()),
                    .values = static_cast<int32_t>(values()),
                    .q = step.q,
                    .k = step.k,
                    .v = step.v,
                    .log2_decay = step.log2_decay,
                    .write_q = writes.q,
                    .write_k = writes.k,
                    .write_v = writes.v,
                    .write_decay = writes.log2_decay,
                    .write_starts = writes.starts},
                   input.stream);
  step.row_starts = writes.starts;
  step.q = {writes.q, keys()};
  step.k = {writes.k, keys()};
  step.v = {writes.v, values()};
  step.log2_decay = {writes.log2_decay, heads_};
  return status;
}

// Of so many tokens, which may be several writes each.
ChunkArgs RecurrentPart::ChunkShape(int32_t rows,
                                    int64_t tokens,
                                    const RecurrenceArgs& step,
                                    const Chunks& chunks) const {
  const auto numbers = [](const void* x) {
    return static_cast<const __nv_bfloat16*>(x);
  };
  const __nv_bfloat16* mixed = numbers(chunks.mixed);
  ChunkArgs args = {.decay = step.decay,
                    .rows = rows,
                    .tokens = tokens * front_.writes,
                    .heads = heads_,
                    .key_heads = front_.key_heads,
                    .key_dim = front_.key_dim,
                    .value_dim = value_dim_,
                    .q = {mixed + front_.q, front_.width},
                    .k = {mixed + front_.k, front_.width},
                    .v = {mixed + front_.v, front_.width},
                    .log2_decay = step.log2_decay,
                    .beta = step.beta,
                    .out = static_cast<__nv_bfloat16*>(chunks.out),
                    .out_stride = values()};
  if (is_spread()) args.q = {mixed, keys()};
  if (chunks.keys != nullptr) args.k = {numbers(chunks.keys), step.k.stride};
  if (chunks.values != nullptr) args.v = {numbers(chunks.values), values()};
  return args;
}

cudaError_t RecurrentPart::RoundForChunks(const DeviceInput& input,
                                          const Arrays& arrays,
                                          const RecurrenceArgs& step) const {
  const Chunks& chunks = arrays.chunks;
  const auto round = [&](TokenRows x, void* out) {
    return RoundRows(x,
                     input.batch->tokens * front_.writes,
                     static_cast<int32_t>(x.stride),
                     Activation::kNone,
                     number_,
                     out,
                     input.stream);
  };
  // What is not the front's own is contiguous.
  cudaError_t status =
      round(is_spread() ? step.q : TokenRows{arrays.front.mixed, front_.width},
            chunks.mixed);
  if (status == cudaSuccess && chunks.keys != nullptr) {
    status = round(step.k, chunks.keys);
  }
  if (status == cudaSuccess && chunks.values != nullptr) {
    status = round(step.v, chunks.values);
  }
  return status;
}

// The long rows, which stand last; `step` has all of them.
cudaError_t RecurrentPart::RecurInChunks(const DeviceInput& input,
                                         const Arrays& arrays,
                                         const RecurrenceArgs& step) const {
  const DeviceBatch& batch = *input.batch;
  cudaError_t status = RoundForChunks(input, arrays, step);
  if (status != cudaSuccess) return status;
  ChunkArgs args = ChunkShape(
      batch.rows - batch.short_rows, batch.tokens, step, arrays.chunks);
  args.longest_row = batch.longest_row * front_.writes;
  args.row_starts = step.row_starts + batch.short_rows;
  args.slots = batch.slots + batch.short_rows;
  args.consumed = batch.consumed + batch.short_rows;
  args.state_number = input.state_number;
  args.state = input.pool->base(input.state);
  args.state_stride = step.state_stride;
  args.rounding_seed = static_cast<uint32_t>(input.state);
  args.workspace = arrays.chunks.workspace;
  status = RecurrenceChunk(args, input.stream);
  if (status != cudaSuccess) return status;
  const int64_t width = front_.writes * values();
  const int64_t first = batch.short_tokens * width;
  return WidenNumbers(args.out + first,
                      batch.tokens * width - first,
                      arrays.o + first,
                      input.stream);
}

absl::Status RecurrentPart::Finish(const DeviceInput& input,
                                   const Arrays& arrays) const {
  const TokenRows gate = weights_.front.Column(arrays.front, end_.gate_column);
  const int64_t writes = front_.writes;
  FinishRowsArgs args = {
      .tokens = input.batch->tokens,
      .norm = {.groups = end_.groups,
               .width = static_cast<int32_t>(values() / end_.groups),
               .x = {arrays.o + (writes - 1) * values(), writes * values()},
               .z = gate,
               .weight = weights_.norm.as<float>(),
               .shared_weight = end_.shared_weight,
               .eps = end_.eps,
               .gate = end_.gate,
               .order = end_.order},
      .number = number_,
      .out = arrays.normed};
  if (weights_.gate_up.outputs() > 0) {
    WEIR_RETURN_IF_ERROR(weights_.gate_up.OfFloats(
        input, gate, Activation::kNone, arrays.narrow, arrays.gate));
    args.norm.z = {arrays.gate, values()};
  }
  if (weights_.skip.data() != nullptr) {
    args.skip = weights_.front.Mixed(arrays.front, front_.v);
    args.d = weights_.skip.as<float>();
    args.skip_dim = value_dim_;
  }
  return CudaStatus(FinishRows(args, input.stream), "a mixer's norm");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeRecurrentPart(
    const RecurrentSource& from, DeviceWeights& weights) {
  if (from.front.key_dim > kDecodeKeyDimMax) {
    return absl::UnimplementedError(
        absl::StrCat("on a GPU the key channels of a head, ",
                     from.front.key_dim,
                     ", may be at most ",
                     kDecodeKeyDimMax));
  }
  RecurrentPart::Weights taken;
  WEIR_ASSIGN_OR_RETURN(
      taken.front,
      MixerFront::Take(
          from.front, *from.projection, from.conv, from.conv_bias, weights));
  WEIR_ASSIGN_OR_RETURN(
      taken.gates,
      RecurrentGates::Take(from.gates, from.front, from.gates_from, weights));
  WEIR_ASSIGN_OR_RETURN(taken.angles, weights.Doubles(from.angles));
  if (from.gate_up != nullptr) {
    WEIR_ASSIGN_OR_RETURN(
        taken.gate_up,
        DeviceLinear::Take(*from.gate_up, "the gate's rank", weights));
  }
  WEIR_ASSIGN_OR_RETURN(taken.skip, weights.Floats(from.skip));
  WEIR_ASSIGN_OR_RETURN(taken.norm, weights.Floats(*from.norm));
  WEIR_ASSIGN_OR_RETURN(
      taken.out, DeviceLinear::Take(*from.out, "the heads' width", weights));
  return std::make_unique<RecurrentPart>(
      from, weights.number(), std::move(taken));
}

}  // namespace weir::engine
