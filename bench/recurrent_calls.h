// SPDX-License-Identifier: Apache-2.0
//
// What a mixer asks of the kernels that touch its state: the calls are noted
// as they come, with the mixer's own arguments, and can be made again alone.
// So a mixer's recurrent step is measured without its projections, and a new
// mixer needs no benchmark of its own.
//
// Threads: one caller; the calls themselves may come from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "engine/kernels/recurrence.h"
#include "engine/kernels/running_sum.h"
#include "engine/kernels/selective_scan.h"
#include "engine/kernels/wkv.h"

namespace weir::bench {

struct RecurrentCall {
  std::variant<engine::RecurrenceArgs,
               engine::RunningSumArgs,
               engine::SelectiveScanArgs,
               engine::WkvArgs>
      args;
  bool chunked = false;
  // The rows' starts and slots, which a mixer may have made for the call.
  std::shared_ptr<const std::vector<int32_t>> rows = {};

  // Bytes of the states that it reads, and again writes.
  int64_t state_bytes() const;
  // FLOPs of its matrix products for all its tokens, for each: with C tokens a
  // chunk, 64 or, where each channel has its own decay, 16, and per head
  //   C (K + V) + 2 K V multiplications and additions as linear attention,
  //   2 C (K + V) + 3 K V with the delta rule or a correction along the key,
  //   4 C K + 3 C V + 4 K V with any correction.
  // 0 for the forms that have no products.
  int64_t chunk_flops() const;
  // Makes the call again, over all its rows, on the library's threads.
  void Repeat() const;
};

// Notes calls for as long as it lives. One at a time.
class RecurrentCalls {
 public:
  RecurrentCalls();
  ~RecurrentCalls();
  RecurrentCalls(const RecurrentCalls&) = delete;
  RecurrentCalls& operator=(const RecurrentCalls&) = delete;

  // In the order in which they came. Their pointers are the mixer's.
  std::vector<RecurrentCall> calls() const;
};

}  // namespace weir::bench
