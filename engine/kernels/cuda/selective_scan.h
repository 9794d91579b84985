// SPDX-License-Identifier: Apache-2.0
//
// Mamba-1's recurrence of engine/kernels/selective_scan.h on a GPU. A row's
// state is read once and written once; a row of more than kScanSegment tokens
// is cut into segments of so many, counted from its first token, that run side
// by side: what each adds to a state of zero, then the state before each, then
// their outputs. The sums depend on the row's tokens alone, so its outputs and
// its state do not depend on its neighbours, to the bit.
//
// Bound: bytes of device memory, 8 N of a row and channel, and of a token and
// channel 12 read and one number written; in rows of many tokens arithmetic, N
// exponentials a token and channel, twice where there are segments.
//
// Threads: any; the work is put on the caller's stream and holds no count that
// a captured step would have to change.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/selective_scan.h"

namespace weir::engine {

inline constexpr int32_t kScanSegment = 64;     // tokens
inline constexpr int32_t kScanStatesMax = 256;  // N

struct ScanRowsArgs {
  // Its arrays lie in device memory, the state [slots][N, C] in fp32; `out` is
  // null, out_stride counts numbers of the output. Counts are read by the host.
  SelectiveScanArgs scan;
  int64_t tokens = 0;       // the last of row_starts, or more
  int32_t longest_row = 0;  // tokens, or more
  // [rows]: 0 for a slot that has consumed no token, whose state reads as zero
  // whatever it holds. Null: none is fresh.
  const uint32_t* consumed = nullptr;
  StateNumber number = StateNumber::kFloat32;  // of the output
  void* out = nullptr;                         // [T][C], no array of `scan`
  // ScanWorkspaceFloats(tokens, C, N); may be null where that is 0.
  float* workspace = nullptr;
};

// Of a call of at most so many tokens; 0 if no row can have segments.
int64_t ScanWorkspaceFloats(int64_t tokens, int32_t channels, int32_t states);

// A row whose slot is -1 is padding: nothing of it is read or written. A row of
// no tokens leaves its slot as it is. Slots of a call differ.
// cudaErrorInvalidValue for what the kernels do not take: more than
// kScanStatesMax states, segments without a workspace; otherwise what the
// launches returned.
cudaError_t ScanRows(const ScanRowsArgs& args, cudaStream_t stream);

}  // namespace weir::engine
