// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/slot_recurrence.h"

#include "engine/kernels/slots.h"
#include "engine/mixers/parallel.h"

namespace weir::engine {

std::vector<StateTensor> SlotStates(const SlotShape& shape) {
  return {
      {.name = "keys", .shape = {shape.heads, shape.slots, shape.key_dim}},
      {.name = "values", .shape = {shape.heads, shape.value_dim, shape.slots}}};
}

void RunSlots(const MixerInput& input, const SlotArgs& args) {
  const Batch& batch = *input.batch;
  const SlotShape& shape = args.shape;
  StatePool* pool = input.state.pool;
  const size_t keys = input.state.first;
  const size_t values = keys + 1;
  const int64_t width = int64_t{shape.heads} * shape.slots;
  RunRecurrence(
      batch,
      {.decay = args.decay_by_slot ? DecayKind::kValue : DecayKind::kHead,
       .heads = shape.heads,
       .key_heads = shape.heads,
       .key_dim = shape.key_dim,
       .value_dim = shape.slots,
       .q = args.q,
       .k = args.k,
       .v = args.key_write,
       .log2_decay = args.log2_decay,
       .out = args.weights,
       .out_stride = width,
       .state = pool->base(keys),
       .state_stride = pool->stride(keys)});
  const SlotSoftmaxArgs softmax = {
      .heads = shape.heads, .slots = shape.slots, .x = args.weights};
  if (batch.form == Form::kReference) {
    SlotSoftmaxReference(softmax, 0, batch.tokens);
  } else {
    ParallelFor(batch.tokens, 10 * width, [&](int64_t begin, int64_t end) {
      SlotSoftmax(softmax, begin, end);
    });
  }
  RunRecurrence(
      batch,
      {.decay = args.decay_by_slot ? DecayKind::kKey : DecayKind::kHead,
       .heads = shape.heads,
       .key_heads = shape.heads,
       .key_dim = shape.slots,
       .value_dim = shape.value_dim,
       .q = {args.weights, width},
       .k = args.value_write,
       .v = args.v,
       .log2_decay = args.log2_decay,
       .out = args.out,
       .out_stride = int64_t{shape.heads} * shape.value_dim,
       .state = pool->base(values),
       .state_stride = pool->stride(values)});
}

}  // namespace weir::engine
