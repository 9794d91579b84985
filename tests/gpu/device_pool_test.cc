// SPDX-License-Identifier: Apache-2.0
#include "engine/state/device_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "tests/conformance/recurrence_case.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::DecodeArgs;
using engine::DevicePool;
using engine::DeviceTensor;
using engine::StateNumber;

std::vector<DeviceTensor> Tensors() {
  return {{"recurrent", {3, 20, 12}, StateNumber::kFloat32},
          {"conv", {4, 33}, StateNumber::kBfloat16},
          {"output", {7}, StateNumber::kFloat32}};
}

std::vector<std::byte> Pattern(int64_t bytes, uint32_t seed) {
  std::vector<std::byte> host(bytes);
  for (std::byte& x : host) {
    seed = seed * 1664525 + 1013904223;
    x = static_cast<std::byte>(seed >> 24);
  }
  return host;
}

TEST(DevicePoolTest, SlotsAreHeldOnceAndGivenAgain) {
  auto pool = DevicePool::Create(Tensors(), 3);
  ASSERT_TRUE(pool.ok()) << pool.status();

  std::set<int32_t> slots;
  for (int i = 0; i < 3; ++i) slots.insert((*pool)->Acquire().value());
  EXPECT_THAT(slots, testing::ElementsAre(0, 1, 2));
  EXPECT_EQ((*pool)->Acquire().status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE((*pool)->held((*pool)->scratch_slot()));

  (*pool)->Consume(1, 5);
  (*pool)->Release(1);
  EXPECT_EQ((*pool)->slots_free(), 1);
  EXPECT_EQ((*pool)->Acquire().value(), 1);
  EXPECT_EQ((*pool)->consumed(1), 0U);
}

TEST(DevicePoolTest, SaveLoadAndCopyAreExactAndTouchNoNeighbour) {
  auto made = DevicePool::Create(Tensors(), 4);
  ASSERT_TRUE(made.ok()) << made.status();
  DevicePool& pool = **made;
  std::vector<std::vector<std::byte>> held;
  for (uint32_t slot = 0; slot < 4; ++slot) {
    ASSERT_TRUE(pool.Acquire().ok());
    held.push_back(Pattern(pool.saved_bytes(), slot));
    ASSERT_TRUE(pool.Load(held[slot], slot, nullptr).ok());
  }

  ASSERT_TRUE(pool.Copy(0, 2, nullptr).ok());
  held[2] = held[0];

  for (int32_t slot = 0; slot < 4; ++slot) {
    std::vector<std::byte> got(pool.saved_bytes());
    ASSERT_TRUE(pool.Save(slot, got, nullptr).ok());
    EXPECT_EQ(got, held[slot]) << slot;
  }
  uint64_t count = 0;
  std::memcpy(&count, held[3].data() + held[3].size() - 8, 8);
  EXPECT_EQ(pool.consumed(3), count);
  std::vector<std::byte> wrong(pool.saved_bytes() - 1);
  EXPECT_EQ(pool.Save(0, wrong, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool.Load(wrong, 0, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DevicePoolTest, MoreThanTheCardHasIsRefusedWithTheSizes) {
  const auto pool =
      DevicePool::Create({{"recurrent", {1 << 20, 1 << 12}}}, 1000);

  ASSERT_EQ(pool.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(pool.status().message(),
              testing::AllOf(testing::HasSubstr("1000 slots of 17179869184"),
                             testing::HasSubstr("are free")));
  // The refusal is no error of the device.
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_TRUE(DevicePool::Create(Tensors(), 1).ok());
}

TEST(DevicePoolTest, TensorsWithoutElementsAreRefused) {
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {}, {0}, {3, -1}, {1L << 40, 1L << 40}}) {
    EXPECT_EQ(DevicePool::Create({{"x", shape}}, 1).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(DevicePool::Create({}, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DevicePool::Create(Tensors(), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DevicePoolTest, AMarkIsZeroForZeroAloneAndKeepsThePlaceInTheWindow) {
  EXPECT_EQ(DevicePool::ConsumedMark(0), 0U);
  for (const uint64_t consumed : {uint64_t{1},
                                  uint64_t{839},
                                  uint64_t{880'803'839},
                                  uint64_t{880'803'840},
                                  uint64_t{5'000'000'001},
                                  uint64_t{1} << 60}) {
    const uint32_t mark = DevicePool::ConsumedMark(consumed);
    EXPECT_GE(mark, std::min<uint64_t>(consumed, 8)) << consumed;
    for (uint64_t width = 2; width <= 8; ++width) {
      EXPECT_EQ(mark % width, consumed % width) << consumed;
    }
  }
}

// A slab of more than 2^31 numbers, its first and its last slot.
TEST(DevicePoolTest, SlotsBeyondTwoToTheThirtyFirstNumber) {
  constexpr int64_t kNumbers = 64 * 128 * 128;
  constexpr int32_t kSlots = (int64_t{1} << 31) / kNumbers + 2;
  auto made = DevicePool::Create({{"recurrent", {64, 128, 128}}}, kSlots);
  ASSERT_TRUE(made.ok()) << made.status();
  DevicePool& pool = **made;
  ASSERT_GT(kSlots * pool.stride(0), int64_t{1} << 31);
  for (int32_t slot = 0; slot < kSlots; ++slot) {
    ASSERT_EQ(pool.Acquire().value(), slot);
  }
  const std::vector<std::byte> zero(pool.saved_bytes());
  ASSERT_TRUE(pool.Load(zero, 0, nullptr).ok());
  ASSERT_TRUE(pool.Load(zero, kSlots - 1, nullptr).ok());

  engine::RecurrenceCase work(
      {.heads = 64, .key_heads = 64, .key_dim = 128, .value_dim = 128}, {2}, 1);
  const auto array = [](const std::vector<float>& x) {
    return std::make_unique<DeviceArray<float>>(std::span<const float>(x));
  };
  const auto q = array(work.q);
  const auto k = array(work.k);
  const auto v = array(work.v);
  const auto decay = array(work.log2_decay);
  const auto beta = array(work.beta);
  DeviceArray<float> out(work.out.size());
  DeviceArray<int32_t> starts{std::span<const int32_t>(work.row_starts)};
  std::vector<std::vector<std::byte>> states;
  for (const int32_t slot : {0, kSlots - 1}) {
    const std::vector<int32_t> slots = {slot};
    DeviceArray<int32_t> row_slots{std::span<const int32_t>(slots)};
    DecodeArgs args;
    args.step = work.Args();
    args.step.row_starts = starts.data();
    args.step.slots = row_slots.data();
    args.step.q.data = q->data();
    args.step.k.data = k->data();
    args.step.v.data = v->data();
    args.step.log2_decay.data = decay->data();
    args.step.beta.data = beta->data();
    args.step.out = out.data();
    args.step.state = nullptr;
    args.step.state_stride = pool.stride(0);
    args.state = pool.base(0);
    ASSERT_EQ(engine::RecurrenceDecode(args, nullptr), cudaSuccess);
    states.emplace_back(pool.saved_bytes());
    ASSERT_TRUE(pool.Save(slot, states.back(), nullptr).ok());
  }
  EXPECT_EQ(states[0], states[1]);
  EXPECT_NE(states[0], zero);
}

}  // namespace
}  // namespace weir::gpu
