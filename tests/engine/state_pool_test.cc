// SPDX-License-Identifier: Apache-2.0
#include "engine/state/state_pool.h"

#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace weir::engine {
namespace {

StateSpec SmallSpec() {
  return {.tensors = {{.name = "layers.0.recurrent", .shape = {2, 3, 5}},
                      {.name = "layers.0.conv", .shape = {3, 7}},
                      {.name = "output", .shape = {16}}}};
}

std::unique_ptr<StatePool> MakePool(int32_t slots, bool mark_freed = true) {
  auto pool = StatePool::Create(SmallSpec(),
                                {.slots = slots, .mark_freed = mark_freed});
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

uint32_t Bits(const float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof(bits));
  return bits;
}

// Calls visit(float*) for each value of the slot, the padding left out.
template <typename Visit>
void ForEachValue(StatePool& pool, int32_t slot, Visit visit) {
  for (size_t i = 0; i < pool.spec().tensors.size(); ++i) {
    for (int64_t e = 0; e < pool.spec().tensors[i].elements(); ++e) {
      visit(pool.base(i) + slot * pool.stride(i) + e);
    }
  }
}

// Different in each slot and value, a NaN with a payload among them.
void Fill(StatePool& pool, int32_t slot) {
  uint32_t next = 0x3f000000u + static_cast<uint32_t>(slot) * 4096;
  ForEachValue(pool, slot, [&next](float* value) {
    const uint32_t bits = next % 11 == 0 ? 0x7fc12345u : next;
    std::memcpy(value, &bits, sizeof(bits));
    ++next;
  });
}

std::vector<std::byte> Saved(StatePool& pool, int32_t slot) {
  std::vector<std::byte> host(static_cast<size_t>(pool.spec().bytes()));
  EXPECT_TRUE(pool.Save(slot, host).ok());
  return host;
}

TEST(StateTensorTest, ElementsAreTheProductOfAShapeThatMakesSense) {
  EXPECT_EQ((StateTensor{.name = "a", .shape = {2, 3}}).elements(), 6);
  EXPECT_EQ((StateTensor{.name = "a", .shape = {}}).elements(), 0);
  EXPECT_EQ((StateTensor{.name = "a", .shape = {2, 0}}).elements(), 0);
  EXPECT_EQ((StateTensor{.name = "a", .shape = {-2, -3}}).elements(), 0);
  EXPECT_EQ(
      (StateTensor{.name = "a", .shape = {1LL << 40, 1LL << 40}}).elements(),
      0);
}

TEST(StateSpecTest, BytesAreThoseOfAllTensorsWithoutPadding) {
  EXPECT_EQ(SmallSpec().bytes(), (30 + 21 + 16) * 4);
  EXPECT_EQ(SlotBytes(SmallSpec()), (32 + 32 + 16) * 4);
}

TEST(StatePoolTest, RefusesWhatItCannotHold) {
  const auto code = [](StateSpec spec, int32_t slots) {
    return StatePool::Create(std::move(spec), {.slots = slots}).status().code();
  };
  StateSpec growing = SmallSpec();
  growing.tensors[1].kind = StateKind::kGrowing;
  StateSpec param = SmallSpec();
  param.tensors[1].start = StateStart::kParam;
  StateSpec empty = SmallSpec();
  empty.tensors[2].shape = {4, 0};
  StateSpec huge = SmallSpec();
  huge.tensors[2].shape = {1LL << 40};

  EXPECT_EQ(code(growing, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(param, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(empty, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({}, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(SmallSpec(), 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(SmallSpec(), -1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(huge, 1 << 20), absl::StatusCode::kResourceExhausted);
}

TEST(StatePoolTest, SlotsBeginAtCacheLinesAndNeverOverlap) {
  auto pool = MakePool(5);

  for (size_t i = 0; i < pool->spec().tensors.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool->base(i)) % 64, 0u);
    EXPECT_EQ(pool->stride(i) * sizeof(float) % 64, 0u);
    EXPECT_GE(pool->stride(i), pool->spec().tensors[i].elements());
  }
}

TEST(StatePoolTest, AcquireGivesEachSlotOnceAndThenRefuses) {
  auto pool = MakePool(3);
  std::set<int32_t> slots;

  for (int i = 0; i < 3; ++i) slots.insert(*pool->Acquire());

  EXPECT_EQ(slots, (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(pool->slots_free(), 0);
  EXPECT_EQ(pool->Acquire().status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(StatePoolTest, HeldIsTrueOfHeldSlotsOnly) {
  auto pool = MakePool(2);
  const int32_t slot = *pool->Acquire();

  EXPECT_TRUE(pool->held(slot));
  EXPECT_FALSE(pool->held(1 - slot));
  EXPECT_FALSE(pool->held(-1));
  EXPECT_FALSE(pool->held(2));
}

TEST(StatePoolTest, AFreedSlotIsMarkedAndAnAcquiredOneReadsAsZero) {
  auto pool = MakePool(2);
  const int32_t slot = *pool->Acquire();
  Fill(*pool, slot);

  pool->Release(slot);

  ForEachValue(*pool, slot, [](float* value) {
    ASSERT_EQ(Bits(value), kFreedSlotBits);
    ASSERT_TRUE(std::isnan(*value));
  });
  ASSERT_EQ(*pool->Acquire(), slot);
  ForEachValue(*pool, slot, [](float* value) { ASSERT_EQ(Bits(value), 0u); });
}

TEST(StatePoolTest, WithoutMarksAnAcquiredSlotStillReadsAsZero) {
  auto pool = MakePool(1, /*mark_freed=*/false);
  const int32_t slot = *pool->Acquire();
  Fill(*pool, slot);

  pool->Release(slot);
  ASSERT_EQ(*pool->Acquire(), slot);

  ForEachValue(*pool, slot, [](float* value) { ASSERT_EQ(Bits(value), 0u); });
}

TEST(StatePoolTest, AnAcquiredSlotBeginsWithTheFillOfItsTensors) {
  StateSpec spec = SmallSpec();
  spec.tensors[1].fill = -1e38F;
  auto pool = *StatePool::Create(spec, {.slots = 2});
  const int32_t other = *pool->Acquire();
  const int32_t slot = *pool->Acquire();
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < spec.tensors.size(); ++i) {
      const float* begin = pool->base(i) + slot * pool->stride(i);
      for (int64_t e = 0; e < spec.tensors[i].elements(); ++e) {
        EXPECT_EQ(begin[e], i == 1 ? -1e38F : 0.0F);
      }
      EXPECT_EQ(pool->base(i)[other * pool->stride(i)], i == 1 ? -1e38F : 0.0F);
    }
    Fill(*pool, slot);
    pool->Release(slot);
    ASSERT_EQ(*pool->Acquire(), slot);
  }
}

TEST(StatePoolTest, CopyIsExactToTheBitAndTouchesNoOtherSlot) {
  auto pool = MakePool(3);
  for (int32_t i = 0; i < 3; ++i) Fill(*pool, *pool->Acquire());
  const auto from = Saved(*pool, 0);
  const auto other = Saved(*pool, 2);

  pool->Copy(0, 1);
  pool->Copy(0, 0);

  EXPECT_EQ(Saved(*pool, 1), from);
  EXPECT_EQ(Saved(*pool, 0), from);
  EXPECT_EQ(Saved(*pool, 2), other);
}

TEST(StatePoolTest, SaveAndLoadAreExactToTheBit) {
  auto pool = MakePool(2);
  const int32_t a = *pool->Acquire();
  const int32_t b = *pool->Acquire();
  Fill(*pool, a);
  const auto host = Saved(*pool, a);

  EXPECT_TRUE(pool->Load(host, b).ok());

  EXPECT_EQ(Saved(*pool, b), host);
}

TEST(StatePoolTest, SaveAndLoadRefuseAnotherSize) {
  auto pool = MakePool(1);
  const int32_t slot = *pool->Acquire();
  std::vector<std::byte> host(static_cast<size_t>(pool->spec().bytes()) + 4);

  EXPECT_EQ(pool->Save(slot, host).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool->Load(host, slot).code(), absl::StatusCode::kInvalidArgument);
}

int64_t ResidentPages() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  statm >> total >> resident;
  return resident;
}

TEST(StatePoolTest, AHundredThousandCyclesLeakNeitherSlotNorMemory) {
  auto pool = MakePool(8);
  std::vector<int32_t> held;
  for (int i = 0; i < 8; ++i) held.push_back(*pool->Acquire());
  const int64_t before = ResidentPages();

  for (int cycle = 0; cycle < 100'000; ++cycle) {
    int32_t& slot = held[static_cast<size_t>(cycle * 5 % 8)];
    pool->Release(slot);
    slot = *pool->Acquire();
  }

  EXPECT_EQ(std::set<int32_t>(held.begin(), held.end()).size(), 8u);
  EXPECT_EQ(pool->slots_free(), 0);
  EXPECT_LE((ResidentPages() - before) * sysconf(_SC_PAGESIZE), 1 << 20);
}

TEST(StatePoolDeathTest, MistakesOfTheCallerEndTheProcess) {
  auto pool = MakePool(2);
  const int32_t slot = *pool->Acquire();

  EXPECT_DEATH(pool->Release(1 - slot), "CHECK failed");
  EXPECT_DEATH(pool->Copy(slot, 1 - slot), "CHECK failed");
}

}  // namespace
}  // namespace weir::engine
