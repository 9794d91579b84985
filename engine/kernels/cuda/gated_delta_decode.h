// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet's mixer between its projections, for rows of few tokens, in
// one launch for rows of one token and one to three more for longer ones:
//
//   q, k, v = silu(conv(x))        q, k of length one per head, q times K^-1/2
//   d = exp(-exp(a_log) softplus(a + dt_bias)), beta = scale sigmoid(b)
//   u = beta (v - d S^T k);  S <- d S + k u^T;  o = S^T q
//   out = rmsnorm(o) w g(z)                   g: SiLU or the sigmoid, or none
//
// A slot's window holds the last W inputs of the convolution as a ring: that of
// its token n lies in entry n % W. One more than the convolution looks back on,
// so that a row of one token writes an entry that none of the blocks reads.
//
// Bound: bytes of device memory; the state twice, W inputs of the window and
// the token's own, once.
//
// Threads: any; the work is put on the caller's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/pointwise.h"

namespace weir::engine {

// How the card goes over the states. All but the first are for tests and
// benchmarks, and take rows of many tokens one after another.
enum class GatedDeltaForm {
  // By the number of states, for a row of one token; all of these have the same
  // bits. On sm_90 the tokens of a row of 2 to 32 are taken together, or of 2
  // to
  // 16 where K is 256: as near to the formulas, in other bits. Which it is
  // depends on the row's own length alone.
  kByStates,
  kSpread,  // blocks of a quarter of 64 KiB, so that few states keep it busy
  kWhole,   // blocks of 64 KiB, in registers
  // sm_90: each multiprocessor goes over states that the copy engine brings to
  // its shared memory and takes back; one token a row, V at most 2 K.
  kStream,
};

struct GatedDeltaDecodeArgs {
  int32_t rows = 0;
  int32_t heads = 0;       // value heads
  int32_t key_heads = 0;   // divides heads
  int32_t key_dim = 0;     // K: 64, 128 or 256
  int32_t value_dim = 0;   // V, at most 512
  int32_t conv_width = 0;  // W, 2 to 8
  // The most tokens of a row: at 1 row r's token is token r.
  int32_t row_tokens_max = 1;
  // Rows of one token are left out from 2 on, and a launch is saved.
  int32_t row_tokens_min = 1;
  const int32_t* row_starts = nullptr;  // [rows + 1]; unused at 1
  const int32_t* slots = nullptr;       // [rows]; -1: padding, nothing is done
  // [rows]: tokens that the slot has consumed; none: state and window read as
  // zero. May wrap at a multiple of W that is not 0.
  const uint32_t* consumed = nullptr;

  // What the projections gave, of `number`: columns q [key_heads, K], k, v
  // [heads, V] from 0 on, then where these say: z [heads, V], a and b [heads].
  StateNumber number = StateNumber::kBfloat16;
  const void* projected = nullptr;  // [T][columns]
  int64_t projected_stride = 0;     // numbers between two tokens
  int64_t z_column = 0;
  int64_t a_column = 0;
  int64_t b_column = 0;
  // [q|k|v, W], the last tap meets x_t; 16-byte aligned.
  const float* conv_weight = nullptr;
  const float* conv_bias = nullptr;    // [q|k|v] or null
  const float* log2_rate = nullptr;    // [heads], -exp(a_log) log2(e)
  const float* dt_bias = nullptr;      // [heads]
  const float* norm_weight = nullptr;  // [V]
  float norm_eps = 0;
  float beta_scale = 1;
  GateKind gate = GateKind::kSilu;

  void* out = nullptr;     // [T][heads, V] of `number`
  int64_t out_stride = 0;  // numbers between two tokens

  StateNumber state_number = StateNumber::kFloat32;
  void* state = nullptr;     // [slots][heads, V, K], 16-byte aligned
  int64_t state_stride = 0;  // numbers between two slots, of whole 16 bytes
  void* window = nullptr;    // [slots][W, q|k|v] of `number`
  int64_t window_stride = 0;
  // Of the rounding to bf16, beside consumed: other numbers for
  // another layer.
  uint32_t rounding_seed = 0;
  // The states may be read while the launch before this one still runs: nothing
  // that it does touches them, the slots or the rows, and it awaits the one
  // before itself (launch_order.cuh). For few rows of one token.
  bool begins_early = false;
  GatedDeltaForm form = GatedDeltaForm::kByStates;
};

// cudaErrorInvalidValue for what the kernels do not take; else the launch's.
cudaError_t GatedDeltaDecode(const GatedDeltaDecodeArgs& args,
                             cudaStream_t stream);

}  // namespace weir::engine
