// SPDX-License-Identifier: Apache-2.0
//
// A step's rows, cut into passes that fit a workspace.
//
// Threads: the step thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace weir::engine {

// Part of a row that a pass feeds.
struct Piece {
  size_t row = 0;
  int64_t begin = 0;  // of the row's tokens
  int64_t count = 0;
};

class Passes {
 public:
  explicit Passes(int64_t tokens_max) : tokens_max_(tokens_max) {}

  void Begin() { row_ = token_ = 0; }
  // The next pass's pieces, in the order of the rows; none at the end.
  const std::vector<Piece>& Next(std::span<const Row> rows);

 private:
  const int64_t tokens_max_;
  int64_t row_ = 0;    // the first that is not all fed
  int64_t token_ = 0;  // of it
  std::vector<Piece> pieces_;
};

}  // namespace weir::engine
