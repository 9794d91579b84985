// SPDX-License-Identifier: Apache-2.0
//
// The recurrence of recurrence.h on a GPU by chunks of 64 tokens, as products
// of matrices on the tensor cores: for rows of many tokens. With one decay for
// the head, with the delta rule or without; with a decay a key channel, with
// a = -decay k, b = beta k (KDA) or without a correction (GLA).
//
// Sums and the state are fp32. Operands of products are bf16 with one decay for
// the head and no delta rule, else fp16, the values' times a power of two that
// follows them. The inverse of a correction's triangular system has the rest of
// its rounding as a second fp16: a run of one token adds a rounding error as
// often as it has tokens.
//
// Bound: 2 (3 K V + 2 C K + 2 C V) FLOPs a token and head with a correction,
// C = 64, or the bytes of q, k, v, decays of channels and out.
//
// Threads: any; the work is put on the caller's stream. Compute capability 9.0
// has kernels of its own; from 8.0 on others give the same to within rounding.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/recurrence.h"

namespace weir::engine {

inline constexpr int32_t kChunkTokens = 64;

// Numbers of one token lie together; `stride` of them part two tokens. 16-byte
// aligned, as is the stride's number of bytes.
struct BfloatRows {
  const __nv_bfloat16* data = nullptr;
  int64_t stride = 0;
};

// Arrays lie in device memory; counts are read by the host.
struct ChunkArgs {
  DecayKind decay = DecayKind::kHead;  // or kKey
  int32_t rows = 0;
  // The last of row_starts, or more; with a workspace at most 4,000,000, less
  // 64 a row.
  int64_t tokens = 0;
  // Tokens of the longest row, or more; 0 says nothing about it.
  int32_t longest_row = 0;
  int32_t heads = 0;      // value heads
  int32_t key_heads = 0;  // head h reads q and k of h / (heads / key_heads)
  int32_t key_dim = 0;    // K: 64, 128 or, with one decay for the head, 256
  int32_t value_dim = 0;  // V: a multiple of 64
  const int32_t* row_starts = nullptr;  // [rows + 1]
  const int32_t* slots = nullptr;       // [rows]
  // [rows]: 0 for a slot that has consumed no token, whose state reads as zero
  // whatever it holds. Null: none is fresh.
  const uint32_t* consumed = nullptr;
  // [T][key_heads, K], scaled; with beta of length at most 512, with a decay a
  // key channel at most 16. Without beta and with a decay a key channel, scores
  // q . k are at most 65,000 in size.
  BfloatRows q;
  BfloatRows k;          // [T][key_heads, K]; with beta, of length at most 1
  BfloatRows v;          // [T][heads, V]
  TokenRows log2_decay;  // [T][heads] or [T][heads, K]
  TokenRows beta = {};   // [T][heads], or data == nullptr
  __nv_bfloat16* out = nullptr;  // [T][heads, V], aligned like BfloatRows
  int64_t out_stride = 0;
  // At rest; what a row carries from chunk to chunk is fp32 with either.
  // Rounded to bf16 as decode.h does, once a row.
  StateNumber state_number = StateNumber::kFloat32;
  void* state = nullptr;  // [slots][heads, V, K], in and out, 16-byte aligned
  int64_t state_stride = 0;    // numbers, of whole 16 bytes
  uint32_t rounding_seed = 0;  // as DecodeArgs
  // ChunkWorkspaceBytes(), 16-byte aligned, the call's until its end.
  void* workspace = nullptr;
};

// What a call with these counts needs beside its arrays: nothing with one decay
// for the head and without beta; for each 64 tokens of a head 25 KiB with beta,
// 25 KiB and 24 KiB for each 64 of K with a decay a key channel; and, if rows
// may be split (chunk_segment.cuh), 4 K (V + K) bytes a head and segment.
int64_t ChunkWorkspaceBytes(const ChunkArgs& args);

// Whether the card takes heads of so many key channels: a block of the kernels
// needs up to 110 KiB of shared memory.
bool CanChunk(DecayKind decay, int32_t key_dim);

// cudaErrorInvalidValue for what the kernels do not take, cudaErrorNotSupported
// without CanChunk; otherwise what the launch returned. A row's result depends
// on that row alone, to the bit.
cudaError_t RecurrenceChunk(const ChunkArgs& args, cudaStream_t stream);

}  // namespace weir::engine
