// SPDX-License-Identifier: Apache-2.0
#include "text/byte_trie.h"

#include <algorithm>
#include <deque>

namespace weir::text {
namespace {

// Beyond this, a row of 256 is read in place of a search.
constexpr uint32_t kSearchedChildren = 8;

}  // namespace

// Level by level over the sorted entries: a node is a range of them that share
// their first `depth` bytes.
ByteTrie::ByteTrie(std::vector<Entry> entries) {
  if (entries.empty()) return;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.bytes < b.bytes;
  });
  struct Range {
    size_t begin;
    size_t end;
    size_t depth;
  };
  std::deque<Range> waiting = {{0, entries.size(), 0}};
  nodes_.emplace_back();
  bytes_.push_back(0);
  for (uint32_t n = 0; !waiting.empty(); ++n) {
    auto [begin, end, depth] = waiting.front();
    waiting.pop_front();
    if (entries[begin].bytes.size() == depth) {
      nodes_[n].value = entries[begin++].value;
    }
    nodes_[n].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char byte = entries[begin].bytes[depth];
      size_t same = begin + 1;
      while (same < end && entries[same].bytes[depth] == byte) ++same;
      waiting.push_back({begin, same, depth + 1});
      nodes_.emplace_back();
      bytes_.push_back(static_cast<uint8_t>(byte));
      ++nodes_[n].children;
      begin = same;
    }
    if (nodes_[n].children <= kSearchedChildren) continue;
    nodes_[n].row = static_cast<uint32_t>(rows_.size());
    rows_.emplace_back().fill(kNone);
    for (uint32_t k = 0; k < nodes_[n].children; ++k) {
      const uint32_t child = nodes_[n].first_child + k;
      rows_.back()[bytes_[child]] = child;
    }
  }
}

uint32_t ByteTrie::Child(const Node& node, uint8_t byte) const {
  if (node.row != kNone) return rows_[node.row][byte];
  for (uint32_t k = 0; k < node.children; ++k) {
    if (bytes_[node.first_child + k] == byte) return node.first_child + k;
  }
  return kNone;
}

ByteTrie::Match ByteTrie::Longest(std::string_view text, size_t at) const {
  Match match;
  if (nodes_.empty()) return match;
  uint32_t node = 0;
  for (size_t n = at; n < text.size(); ++n) {
    node = Child(nodes_[node], static_cast<uint8_t>(text[n]));
    if (node == kNone) break;
    if (nodes_[node].value != kNone) match = {nodes_[node].value, n + 1 - at};
  }
  return match;
}

}  // namespace weir::text
