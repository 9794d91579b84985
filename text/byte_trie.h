// SPDX-License-Identifier: Apache-2.0
//
// Strings of bytes and their numbers, and which of them is the longest that a
// text starts with. A look-up costs the bytes it reads, whatever the number of
// strings.
//
// Threads: constant after construction; read from any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace weir::text {

class ByteTrie {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Entry {
    std::string_view bytes;  // read in the constructor only
    uint32_t value = 0;      // below kNone
  };
  struct Match {
    uint32_t value = kNone;  // kNone: `text` starts with none of the strings
    size_t bytes = 0;
  };

  ByteTrie() = default;
  // REQUIRES: no entry is empty, and no two have the same bytes.
  explicit ByteTrie(std::vector<Entry> entries);

  // The longest entry that text[at...] starts with.
  Match Longest(std::string_view text, size_t at) const;

  bool empty() const { return nodes_.empty(); }

 private:
  // A node's children lie side by side, in the order of their bytes.
  struct Node {
    uint32_t value = kNone;
    uint32_t first_child = 0;
    uint32_t children = 0;
    uint32_t row = kNone;  // in rows_, if it has many children
  };
  uint32_t Child(const Node& node, uint8_t byte) const;

  std::vector<Node> nodes_;
  std::vector<uint8_t> bytes_;  // of the edge that leads to each node
  std::vector<std::array<uint32_t, 256>> rows_;
};

}  // namespace weir::text
