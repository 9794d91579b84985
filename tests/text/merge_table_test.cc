// SPDX-License-Identifier: Apache-2.0
#include "text/merge_table.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace weir::text {
namespace {

// Byte-pair encoding over a few letters. Merges are in any order, so that a
// merge may bring forth a pair of a lower rank than its own.
struct RandomMerges {
  std::vector<std::string> tokens;
  std::vector<Merge> merges;
  std::vector<Seam> seams;

  RandomMerges(std::mt19937& random, size_t letters, size_t count) {
    std::map<std::string, uint32_t> ids;
    const auto add = [&](const std::string& token) {
      const auto [found, added] =
          ids.emplace(token, static_cast<uint32_t>(tokens.size()));
      if (added) tokens.push_back(token);
      return found->second;
    };
    for (size_t n = 0; n < letters; ++n) add(std::string(1, "abcdef"[n]));
    std::set<std::pair<uint32_t, uint32_t>> seen;
    for (size_t n = 0; n < count; ++n) {
      const uint32_t left = random() % tokens.size();
      const uint32_t right = random() % tokens.size();
      const std::string token = tokens[left] + tokens[right];
      if (token.size() > 12 || !seen.emplace(left, right).second) continue;
      merges.push_back({left, right, add(token)});
    }
    std::shuffle(merges.begin(), merges.end(), random);
    for (const Merge& merge : merges) {
      seams.push_back(
          {ids[tokens[merge.left].substr(tokens[merge.left].size() - 1)],
           ids[tokens[merge.right].substr(0, 1)]});
    }
  }
};

struct Symbol {
  uint32_t id;
  bool plain;
};

void Apply(const MergeTable& table,
           const std::vector<Symbol>& symbols,
           std::vector<uint32_t>& ids) {
  MergeTable::Word word(table, ids);
  for (const Symbol& symbol : symbols) word.Add(symbol.id, symbol.plain);
  word.Finish();
}

// The definition: again and again the lowest rank, the leftmost of those.
std::vector<uint32_t> Define(const std::vector<Merge>& merges,
                             std::vector<uint32_t> word) {
  std::map<std::pair<uint32_t, uint32_t>, size_t> ranks;
  for (size_t n = 0; n < merges.size(); ++n) {
    ranks[{merges[n].left, merges[n].right}] = n;
  }
  while (true) {
    size_t best = SIZE_MAX, at = 0;
    for (size_t n = 0; n + 1 < word.size(); ++n) {
      const auto found = ranks.find({word[n], word[n + 1]});
      if (found == ranks.end() || found->second >= best) continue;
      best = found->second;
      at = n;
    }
    if (best == SIZE_MAX) return word;
    word[at] = merges[best].merged;
    word.erase(word.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

TEST(MergeTableTest, AnyMergesOfAnyWordAreAsDefined) {
  constexpr uint32_t kSeed = 17;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  for (int round = 0; round < 1500; ++round) {
    const size_t letters = 1 + random() % 6;
    const RandomMerges made(random, letters, random() % 80);
    const MergeTable table(made.merges, made.seams);
    std::vector<Symbol> word;
    std::vector<uint32_t> ids;
    for (size_t n = random() % 300; n > 0; --n) {
      word.push_back({static_cast<uint32_t>(random() % letters), true});
      // Symbols that are not plain may be any token.
      if (random() % 30 == 0) {
        word.back() = {static_cast<uint32_t>(random() % made.tokens.size()),
                       false};
      }
      ids.push_back(word.back().id);
    }
    std::vector<uint32_t> merged = {7};

    Apply(table, word, merged);

    std::vector<uint32_t> expected = Define(made.merges, ids);
    expected.insert(expected.begin(), 7);
    ASSERT_EQ(merged, expected) << "round " << round;
  }
}

TEST(MergeTableTest, WithoutMergesAWordIsItsSymbols) {
  const MergeTable table;
  std::vector<uint32_t> ids;

  const std::vector<Symbol> word = {{1, true}, {2, false}, {3, true}};
  Apply(table, word, ids);

  EXPECT_EQ(ids, (std::vector<uint32_t>{1, 2, 3}));
}

TEST(MergeTableTest, AMillionEqualSymbolsMerge) {
  // 0: a, 1: aa, 2: aaaa, ...
  std::vector<Merge> merges;
  for (uint32_t n = 0; n < 16; ++n) merges.push_back({n, n, n + 1});
  const MergeTable table(merges, {{0, 0}});
  const std::vector<Symbol> word(1 << 20, {0, true});
  std::vector<uint32_t> ids;

  Apply(table, word, ids);

  EXPECT_EQ(ids, std::vector<uint32_t>(16, 16));
}

}  // namespace
}  // namespace weir::text
