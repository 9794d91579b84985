// SPDX-License-Identifier: Apache-2.0
//
// The recurrence of recurrence.h on a GPU, token by token, for rows of few
// tokens: a row's state is read once and written once, whatever its tokens.
//
// Bound: bytes of device memory; 2 K V of the state's numbers a row and head,
// and what the tokens bring.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// How a state's numbers rest in device memory. Arithmetic is fp32; what is
// stored as bf16 is rounded up or down by chance, each in proportion to its
// nearness, so that sums of many small steps keep their mean.
enum class StateNumber { kFloat32, kBfloat16 };

// A session's slot: what the row arrays of a step say of it.
struct DecodeArgs {
  // Its arrays lie in device memory; `state` and `rest` are null. key_dim is at
  // most kDecodeKeyDimMax. Counts are read by the host.
  RecurrenceArgs step;
  StateNumber number = StateNumber::kFloat32;
  // [slots][heads, V, K] of `number`, 16-byte aligned, with step.state_stride a
  // multiple of 16 bytes.
  void* state = nullptr;
  // [rows]: 0 for a slot that has consumed no token, whose state reads as zero
  // whatever it holds. Null: none is fresh.
  const uint32_t* consumed = nullptr;
  // Of the rounding to bf16, beside consumed: other numbers for
  // another layer, and where consumed is null for another step.
  uint32_t rounding_seed = 0;
};

inline constexpr int32_t kDecodeKeyDimMax = 256;

// cudaErrorInvalidValue for what the kernels do not take: an unaligned state, a
// combination that recurrence.h does not name, a key_dim beyond the limit;
// otherwise what the launch returned.
cudaError_t RecurrenceDecode(const DecodeArgs& args, cudaStream_t stream);

}  // namespace weir::engine
