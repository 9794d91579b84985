// SPDX-License-Identifier: Apache-2.0
//
// What launches go by of the card that the process runs on.
//
// Threads: any.
#pragma once

namespace weir::engine {

struct Card {
  int multiprocessors = 0;
  // Of the compute capability that the code which runs there was made for: a
  // card beyond 9.0 runs what was made for 8.0.
  int major = 0;
  int shared_bytes = 0;  // that a block may have

  // Bulk copies, clusters and barriers that count bytes.
  bool has_copy_engine() const { return major >= 9; }
};

// The card of the first thread that asked; zeros where there was none.
const Card& ThisCard();

}  // namespace weir::engine
