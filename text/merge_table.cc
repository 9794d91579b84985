// SPDX-License-Identifier: Apache-2.0
#include "text/merge_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace weir::text {
namespace {

// Up to here a search for the lowest rank is faster than keeping order.
constexpr size_t kSearchedSymbols = 48;
constexpr uint32_t kDead = UINT32_MAX;
constexpr uint32_t kEnd = UINT32_MAX;

}  // namespace

MergeTable::MergeTable(std::vector<Merge> merges,
                       const std::vector<Seam>& seams)
    : merges_(std::move(merges)) {
  const size_t slots =
      std::bit_ceil(std::max<size_t>(2, 2 * (merges_.size() + seams.size())));
  shift_ = 64 - std::countr_zero(slots);
  entries_.resize(slots);
  for (uint32_t rank = 0; rank < merges_.size(); ++rank) {
    Insert(Pair(merges_[rank].left, merges_[rank].right), rank);
  }
  for (const Seam& seam : seams) Insert(Pair(seam.left, seam.right), kNoMerge);
}

// A pair that is there stays as it is.
void MergeTable::Insert(uint64_t pair, uint32_t rank) {
  size_t at = Home(pair);
  while (entries_[at].rank != kApart) {
    if (entries_[at].pair == pair) return;
    at = (at + 1) & (entries_.size() - 1);
  }
  entries_[at] = {pair, rank};
}

// The pairs of a long stretch, in buckets by rank. A pair that has changed
// since it was put in stays there and is known by its parts.
class MergeTable::ByRank {
 public:
  ByRank(const MergeTable& table, std::span<const uint32_t> stretch)
      : table_(table), symbols_(stretch.size()) {
    const auto count = static_cast<uint32_t>(stretch.size());
    for (uint32_t n = 0; n < count; ++n) {
      symbols_[n] = {stretch[n], n - 1, n + 1 < count ? n + 1 : kEnd};
    }
    for (uint32_t n = 0; n + 1 < count; ++n) Put(n);
  }

  void Run() {
    while (!waiting_.empty()) {
      const Waiting top = waiting_.top();
      Bucket& bucket = buckets_[top.bucket];
      if (bucket.taken == bucket.pairs.size()) {
        bucket = {};
        waiting_.pop();
        continue;
      }
      if (!bucket.sorted) {
        std::sort(bucket.pairs.begin() + static_cast<ptrdiff_t>(bucket.taken),
                  bucket.pairs.end());
        bucket.sorted = true;
      }
      MergeAt(bucket.pairs[bucket.taken++], table_.merges_[top.rank]);
    }
  }

  void Append(std::vector<uint32_t>& ids) const {
    for (uint32_t n = 0; n != kEnd; n = symbols_[n].next) {
      ids.push_back(symbols_[n].id);
    }
  }

 private:
  struct Linked {
    uint32_t id;
    uint32_t previous;  // kEnd before the first, which stays the first
    uint32_t next;
  };
  struct Bucket {
    std::vector<uint32_t> pairs;  // by their left symbol
    size_t taken = 0;
    bool sorted = true;
  };

  struct Waiting {
    uint32_t rank;
    uint32_t bucket;
    bool operator>(const Waiting& other) const { return rank > other.rank; }
  };
  struct Known {
    uint64_t pair = UINT64_MAX;
    Waiting place = {kNoMerge, 0};
  };

  // Where a pair is kept; the rank is kNoMerge if it does not merge.
  Waiting PlaceOf(uint32_t left, uint32_t right) {
    const uint64_t pair = Pair(left, right);
    Known& known = known_[(pair * 0x9e3779b97f4a7c15) >> 56];
    if (known.pair == pair) return known.place;
    known = {pair, {kNoMerge, 0}};
    const uint32_t rank = table_.Rank(left, right);
    if (rank >= kApart) return known.place;
    const auto [found, added] =
        bucket_of_.try_emplace(rank, static_cast<uint32_t>(buckets_.size()));
    if (added) buckets_.emplace_back();
    known.place = {rank, found->second};
    return known.place;
  }

  // Keeps the pair of symbol n and the next, if it merges.
  void Put(uint32_t n) {
    const Waiting place =
        PlaceOf(symbols_[n].id, symbols_[symbols_[n].next].id);
    if (place.rank == kNoMerge) return;
    Bucket& bucket = buckets_[place.bucket];
    if (bucket.pairs.empty()) {
      waiting_.push(place);
    } else if (n < bucket.pairs.back()) {
      bucket.sorted = false;
    }
    bucket.pairs.push_back(n);
  }

  void MergeAt(uint32_t n, const Merge& merge) {
    Linked& left = symbols_[n];
    if (left.id != merge.left || left.next == kEnd) return;
    Linked& right = symbols_[left.next];
    if (right.id != merge.right) return;
    left.id = merge.merged;
    left.next = right.next;
    right.id = kDead;
    if (left.next != kEnd) symbols_[left.next].previous = n;
    if (left.previous != kEnd) Put(left.previous);
    if (left.next != kEnd) Put(n);
  }

  const MergeTable& table_;
  std::vector<Linked> symbols_;
  std::vector<Bucket> buckets_;
  absl::flat_hash_map<uint32_t, uint32_t> bucket_of_;  // rank -> index
  // A few pairs come again and again, in a line of one character for the most.
  std::array<Known, 256> known_;
  // The buckets that hold pairs, the lowest rank on top.
  std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>> waiting_;
};

void MergeTable::Settle(size_t begin, std::vector<uint32_t>& ids) const {
  const std::span<uint32_t> stretch = std::span(ids).subspan(begin);
  if (stretch.size() < 2) return;
  if (stretch.size() <= kSearchedSymbols) {
    ids.resize(begin + Search(stretch));
    return;
  }
  ByRank pairs(*this, stretch);
  pairs.Run();
  ids.resize(begin);
  pairs.Append(ids);
}

// Merges in place and returns how many tokens are left.
// REQUIRES: at most kSearchedSymbols symbols.
size_t MergeTable::Search(std::span<uint32_t> stretch) const {
  std::array<uint32_t, kSearchedSymbols> ranks;
  size_t count = stretch.size();
  for (size_t n = 0; n + 1 < count; ++n) {
    ranks[n] = Rank(stretch[n], stretch[n + 1]);
  }
  while (count > 1) {
    const auto last = ranks.begin() + static_cast<ptrdiff_t>(count - 1);
    const auto lowest = std::min_element(ranks.begin(), last);
    if (*lowest >= kApart) break;
    const auto n = static_cast<size_t>(lowest - ranks.begin());
    stretch[n] = merges_[*lowest].merged;
    std::copy(stretch.begin() + static_cast<ptrdiff_t>(n + 2),
              stretch.begin() + static_cast<ptrdiff_t>(count),
              stretch.begin() + static_cast<ptrdiff_t>(n + 1));
    std::copy(lowest + 1, last, lowest);
    --count;
    if (n > 0) ranks[n - 1] = Rank(stretch[n - 1], stretch[n]);
    if (n + 1 < count) ranks[n] = Rank(stretch[n], stretch[n + 1]);
  }
  return count;
}

}  // namespace weir::text
