// SPDX-License-Identifier: Apache-2.0
//
// The ring form of Gated DeltaNet's decode: a step of one token reads a slot's
// state and leaves what the token adds to it in the slot's ring; the state is
// written, with all of the ring, once in kRingSteps steps. With D_n the product
// of the decays since, P_nj that of entries j + 1 to n:
//
//   S k = D_n (S_0 k) + sum_j P_nj (k_j . k) u_j         S q likewise
//   S_n = D_n S_0 + sum_j P_nj u_j k_j^T                 at the fold
//
// A slot's ring, fp32:
//
//   marks  [heads][kRingSteps]        the entries' decays; in the last place,
//   as
//                                     an integer, how many entries there are
//   keys   [key_heads][kRingHeld][K]
//   values [heads][kRingHeld][V]      u
//
// It belongs to the state: a copy of a slot copies both. A slot that has
// consumed nothing has an empty ring, whatever the memory holds.
//
// Bound: bytes of device memory; a step's share of the state is 1 + 1 / 8 of
// it instead of 2, beside half a ring.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/gated_delta_decode.h"

namespace weir::engine {

// A state is written once in so many steps, of which all but the last leave an
// entry in the ring.
inline constexpr int32_t kRingSteps = 8;
inline constexpr int32_t kRingHeld = kRingSteps - 1;

// How the card goes over the rows of one token; the bits are the same.
enum class GatedDeltaRingForm {
  kByStates,
  kBlocks,  // a block for some values of a row
  // Each multiprocessor goes over heads whose states, rings and inputs the copy
  // engine brings: a convolution of width 4 without a bias, whole heads of a
  // multiple of 32 values, at most 256 of them or 512 where K is 256, and
  // rows of inputs, window and ring that are aligned to 16 bytes.
  kStream,
};

struct GatedDeltaRingArgs {
  // The rows' own, as gated_delta_decode.h has them; states of fp32, `form` is
  // not looked at.
  GatedDeltaDecodeArgs step;
  float* ring = nullptr;    // [slots][GatedDeltaRingNumbers], 16-byte aligned
  int64_t ring_stride = 0;  // numbers between two slots, of whole 16 bytes
  // Two numbers that are 0 between launches, or null: with them the streams'
  // shares even out as they go.
  uint32_t* turns = nullptr;
  // The rest is for tests and benchmarks.
  GatedDeltaRingForm form = GatedDeltaRingForm::kByStates;
  // The values that a block takes, at most; 0: by the number of states.
  int32_t block_values = 0;
};

// Numbers of a slot's ring; of `args` the heads and their sizes are read.
int64_t GatedDeltaRingNumbers(const GatedDeltaDecodeArgs& args);

// Whether the kernels take the card and the shape: sm_90, fp32 states.
bool CanRingGatedDelta(const GatedDeltaDecodeArgs& args);

// GatedDeltaDecode over the same rows, of any lengths: a row of one token goes
// by the ring, the ring of a longer one is folded first. Within 1e-6 of what
// GatedDeltaDecode gives; a row's bits do not depend on the other rows.
// cudaErrorInvalidValue for what the kernels do not take.
cudaError_t GatedDeltaRingDecode(const GatedDeltaRingArgs& args,
                                 cudaStream_t stream);

// Writes the states of the rows that have step.row_tokens_min tokens or more,
// and empties their rings: before any kernel that reads or writes a state
// alone. Of `step` only the rows, the heads and the state are read.
cudaError_t FoldGatedDeltaRing(const GatedDeltaRingArgs& args,
                               cudaStream_t stream);

}  // namespace weir::engine
