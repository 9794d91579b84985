// SPDX-License-Identifier: Apache-2.0
//
// What launches go by of the card that the process runs on.
//
// Threads: any.
#pragma once

namespace weir::engine {

struct Card {
  int multiprocessors = 0;
  int major = 0;  // of the compute capability

  // Bulk copies, clusters and barriers that count bytes.
  bool has_copy_engine() const { return major >= 9; }
};

// The card of the first thread that asked; zeros where there was none.
const Card& ThisCard();

}  // namespace weir::engine
