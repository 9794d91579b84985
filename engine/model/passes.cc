// SPDX-License-Identifier: Apache-2.0
#include "engine/model/passes.h"

#include <algorithm>

namespace weir::engine {

const std::vector<Piece>& Passes::Next(std::span<const Row> rows) {
  pieces_.clear();
  int64_t room = tokens_max_;
  while (row_ < std::ssize(rows) && room > 0) {
    const auto row = static_cast<size_t>(row_);
    const auto tokens = static_cast<int64_t>(rows[row].tokens.size());
    const int64_t count = std::min(room, tokens - token_);
    if (count > 0) pieces_.push_back({row, token_, count});
    room -= count;
    token_ += count;
    if (token_ == tokens) {
      ++row_;
      token_ = 0;
    }
  }
  return pieces_;
}

}  // namespace weir::engine
