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

// What a mixer divides its outputs by, kept beside the state: the sum z of its
// keys, which decays as the state does,
//
//   z <- d z + k      dots = (z + eps) . q
//
// and, where every key stands on a floor that does not decay (favor.h: with A
// the sum of the query's features), the sum w of all values and their number n:
//
//   w <- w + v, n <- n + 1      out += floor A w,  dots += floor A n
//
// The quotient is the caller's: a head's first tile has its sums, every tile
// its outputs. A sum is two floats, the second what the first rounded away,
// whatever the state's number. Arrays lie in device memory.
struct KeySums {
  float* keys = nullptr;    // [slots][heads, 2, K], in and out; null: no sums
  int64_t keys_stride = 0;  // floats between two slots
  float eps = 0;
  float* dots = nullptr;  // [T, heads], contiguous
  float floor = 0;
  const float* query_sums = nullptr;  // [T, heads], A; null: no floor
  float* values = nullptr;            // [slots][heads, 2, V], in and out
  int64_t values_stride = 0;
  float* counts = nullptr;  // [slots][heads, 2], in and out
  int64_t counts_stride = 0;
};

// A session's slot: what the row arrays of a step say of it.
struct DecodeArgs {
  // Its arrays lie in device memory; `state` is null. key_dim is at most
  // kDecodeKeyDimMax. A rest is aligned as the state is, which is fp32 with it.
  // Counts are read by the host.
  RecurrenceArgs step;
  // With one decay for the head and no correction, and a rest where the state
  // is fp32.
  KeySums sums = {};
  StateNumber number = StateNumber::kFloat32;
  // [slots][heads, V, K] of `number`, 16-byte aligned, with step.state_stride a
  // multiple of 16 bytes.
  void* state = nullptr;
  // [rows]: 0 for a slot that has consumed no token, whose state, rest and sums
  // read as zero whatever they hold. Null: none is fresh.
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
