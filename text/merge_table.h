// SPDX-License-Identifier: Apache-2.0
//
// The merges of byte-pair encoding: pairs of tokens that become one, by rank.
// Of all pairs in a word, the one of the lowest rank merges first, of several
// the leftmost, until none is left.
//
// A word of n symbols takes O(n) for each level of merges, however long it is
// and whatever it is made of: short stretches are searched, long ones keep
// their pairs by rank. A word is cut first where nothing can ever merge.
//
// Threads: constant after construction; used from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weir::text {

struct Merge {
  uint32_t left = 0;
  uint32_t right = 0;
  uint32_t merged = 0;
};

// Two symbols that may come to lie at a merge's seam.
struct Seam {
  uint32_t left = 0;
  uint32_t right = 0;
};

class MergeTable {
 public:
  class Word;

  MergeTable() = default;
  // `merges` by rank. `seams`: for each merge, the plain symbol that `left`
  // ends with and the one that `right` begins with. REQUIRES: no two merges
  // have the same parts; fewer than 2^31 in all.
  MergeTable(std::vector<Merge> merges, const std::vector<Seam>& seams);

 private:
  static constexpr uint32_t kNoMerge = UINT32_MAX;  // only a seam
  static constexpr uint32_t kApart = UINT32_MAX - 1;

  struct Entry {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = kApart;
  };
  class ByRank;

  static uint64_t Pair(uint32_t left, uint32_t right) {
    return uint64_t{left} << 32 | right;
  }
  size_t Home(uint64_t pair) const {
    return (pair * 0x9e3779b97f4a7c15) >> shift_;
  }
  void Insert(uint64_t pair, uint32_t rank);
  // The rank of a pair; kNoMerge if it is only a seam, kApart if it is neither.
  uint32_t Rank(uint32_t left, uint32_t right) const {
    const uint64_t pair = Pair(left, right);
    size_t at = Home(pair);
    while (entries_[at].pair != pair) {
      if (entries_[at].rank == kApart) return kApart;
      at = (at + 1) & (entries_.size() - 1);
    }
    return entries_[at].rank;
  }

  // Merge what lies from ids[begin] on, which stands apart from the rest.
  void Settle(size_t begin, std::vector<uint32_t>& ids) const;
  size_t Search(std::span<uint32_t> stretch) const;

  std::vector<Merge> merges_;
  // Open addressing, half of it free.
  std::vector<Entry> entries_ = std::vector<Entry>(2);
  int shift_ = 63;
};

// One word, symbol by symbol, to the end of `ids`, where its tokens will stand.
class MergeTable::Word {
 public:
  Word(const MergeTable& table, std::vector<uint32_t>& ids)
      : table_(table), ids_(ids), begin_(ids.size()) {}

  // `plain`: the symbol's seams are in the table. On either side of one whose
  // are not, the word is never cut.
  void Add(uint32_t symbol, bool plain) {
    if (plain && plain_ && table_.Rank(ids_.back(), symbol) == kApart) {
      table_.Settle(begin_, ids_);
      begin_ = ids_.size();
    }
    ids_.push_back(symbol);
    plain_ = plain;
  }
  // Merges what has not been.
  void Finish() { table_.Settle(begin_, ids_); }

 private:
  const MergeTable& table_;
  std::vector<uint32_t>& ids_;
  size_t begin_;        // of what has not been merged
  bool plain_ = false;  // whether it ends with a plain symbol
};

}  // namespace weir::text
