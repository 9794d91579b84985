// SPDX-License-Identifier: Apache-2.0
//
// What the decode kernels must do of a state that is held as two floats and of
// the sums of keys beside it, against the fp64 reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/running_sum.h"
#include "tests/conformance/recurrence_expect.h"
#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::BitEqual;
using engine::kGapMark;
using engine::RecurrenceCase;
using engine::RecurrenceKind;
using engine::RecurrenceShape;
using engine::RelativeRmse;
using engine::RunningSumArgs;
using engine::StateNumber;

constexpr double kRmseMax = 1e-6;
constexpr int64_t kGap = 4;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What there is beside the state.
enum class With { kRest, kRestAndSums, kSums, kRestAndFloor, kFloor };

bool HasRest(With with) { return with != With::kSums && with != With::kFloor; }
bool HasSums(With with) { return with != With::kRest; }
bool HasFloor(With with) {
  return with == With::kRestAndFloor || with == With::kFloor;
}

struct SumsCase {
  RecurrenceShape shape;
  With with = With::kRestAndSums;
};

std::string NameOf(const testing::TestParamInfo<SumsCase>& param) {
  constexpr const char* kNames[] = {
      "Rest", "RestAndSums", "Sums", "RestAndFloor", "Floor"};
  const RecurrenceShape& shape = param.param.shape;
  return std::string(kNames[static_cast<size_t>(param.param.with)]) + "_" +
         std::to_string(shape.heads) + "_" + std::to_string(shape.key_dim) +
         "x" + std::to_string(shape.value_dim);
}

std::vector<SumsCase> Cases() {
  constexpr RecurrenceShape kShapes[] = {
      {.heads = 4, .key_heads = 4, .key_dim = 16, .value_dim = 32},
      {.heads = 2, .key_heads = 2, .key_dim = 64, .value_dim = 300},
      {.heads = 4, .key_heads = 2, .key_dim = 128, .value_dim = 128},
      {.heads = 2, .key_heads = 2, .key_dim = 256, .value_dim = 64},
      {.heads = 10, .key_heads = 1, .key_dim = 13, .value_dim = 7},
      {.heads = 3, .key_heads = 3, .key_dim = 200, .value_dim = 129},
  };
  std::vector<SumsCase> cases;
  for (const With with : {With::kRest,
                          With::kRestAndSums,
                          With::kSums,
                          With::kRestAndFloor,
                          With::kFloor}) {
    for (RecurrenceShape shape : kShapes) {
      shape.kind = RecurrenceKind::kPlain;
      cases.push_back({shape, with});
    }
  }
  return cases;
}

// Two floats of numbers about `size`, the second below the first's last bit.
std::vector<float> Summed(int64_t slots,
                          int64_t heads,
                          int64_t dim,
                          float size,
                          std::mt19937& random) {
  std::normal_distribution<float> normal(size, size);
  const int64_t stride = heads * 2 * dim + kGap;
  std::vector<float> x(static_cast<size_t>(slots * stride), kGapMark);
  for (int64_t i = 0; i < slots * heads; ++i) {
    float* high = x.data() + i / heads * stride + i % heads * 2 * dim;
    for (int64_t c = 0; c < dim; ++c) {
      high[c] = normal(random);
      high[dim + c] = high[c] * 3e-8F;
    }
  }
  return x;
}

// A state, its rest and its sums, on the device or by the reference.
struct Work {
  Work(const SumsCase& of,
       const std::vector<int32_t>& row_tokens,
       uint32_t seed)
      : with(of.with), run(of.shape, row_tokens, seed) {
    std::mt19937 random(seed + 1);
    const int64_t slots = run.slot_count;
    const int64_t heads = run.shape.heads;
    const int64_t numbers = heads * run.shape.value_dim * run.shape.key_dim;
    if (HasRest(with)) {
      sums.rest_stride = (numbers + kGap + 3) / 4 * 4;
      sums.rest.assign(static_cast<size_t>(slots * sums.rest_stride), kGapMark);
      for (int64_t i = 0; i < slots * numbers; ++i) {
        const int64_t slot = i / numbers;
        sums.rest[slot * sums.rest_stride + i % numbers] =
            3e-8F * run.state[slot * run.state_stride + i % numbers];
      }
    } else {
      for (float& x : run.state) {
        if (x != kGapMark) x = FromBfloat16(ToBfloat16(x));
      }
    }
    if (!HasSums(with)) return;
    sums.keys = Summed(slots, heads, run.shape.key_dim, 3, random);
    sums.keys_stride = heads * 2 * run.shape.key_dim + kGap;
    sums.eps = 0.01F;
    sums.dots.assign(static_cast<size_t>(run.tokens * heads), kGapMark);
    if (!HasFloor(with)) return;
    sums.values = Summed(slots, heads, run.shape.value_dim, 1, random);
    sums.values_stride = heads * 2 * run.shape.value_dim + kGap;
    sums.counts = Summed(slots, heads, 1, 50, random);
    sums.counts_stride = heads * 2 + kGap;
    sums.floor = 0.125F;
    sums.query_sums.resize(sums.dots.size());
    for (float& x : sums.query_sums) {
      x = 1 + static_cast<float>(random() % 1000) * 1e-3F;
    }
  }

  StateNumber number() const {
    return HasRest(with) ? StateNumber::kFloat32 : StateNumber::kBfloat16;
  }
  void OnDevice(const std::vector<uint32_t>& consumed = {}) {
    RunOnDevice(run, {.number = number(), .consumed = consumed}, &sums);
  }
  void ByReference();

  // A slot's numbers of one of the arrays above.
  static std::vector<float> Slot(const std::vector<float>& x,
                                 int64_t stride,
                                 int64_t slot) {
    if (x.empty()) return {};
    return {x.begin() + slot * stride, x.begin() + (slot + 1) * stride};
  }
  std::vector<float> AllOf(int64_t slot) const {
    std::vector<float> all = run.SlotState(static_cast<int32_t>(slot));
    for (const auto& part : {Slot(sums.rest, sums.rest_stride, slot),
                             Slot(sums.keys, sums.keys_stride, slot),
                             Slot(sums.values, sums.values_stride, slot),
                             Slot(sums.counts, sums.counts_stride, slot)}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  std::vector<float> RowDots(int32_t row) const {
    if (sums.dots.empty()) return {};
    const int64_t heads = run.shape.heads;
    return {sums.dots.begin() + run.row_starts[row] * heads,
            sums.dots.begin() + run.row_starts[row + 1] * heads};
  }
  void FillSlots(float value) {
    for (std::vector<float>* const x :
         {&run.state, &sums.rest, &sums.keys, &sums.values, &sums.counts}) {
      std::replace_if(
          x->begin(), x->end(), [](float y) { return y != kGapMark; }, value);
    }
  }

  With with;
  RecurrenceCase run;
  DeviceSums sums;

 private:
  void ReferenceOfKeys();
  void ReferenceOfFloor();
  RunningSumArgs SumArgs(int32_t dim) {
    RunningSumArgs args;
    args.rows = static_cast<int32_t>(run.slots.size());
    args.heads = run.shape.heads;
    args.dim = dim;
    args.row_starts = run.row_starts.data();
    args.slots = run.slots.data();
    return args;
  }
};

void Work::ByReference() {
  engine::RecurrenceArgs args = run.Args();
  if (HasRest(with)) {
    args.rest = sums.rest.data();
    args.rest_stride = sums.rest_stride;
  }
  engine::RecurrenceReference(args);
  if (HasSums(with)) ReferenceOfKeys();
  if (HasFloor(with)) ReferenceOfFloor();
}

void Work::ReferenceOfKeys() {
  const int64_t heads = run.shape.heads;
  const int64_t dim = run.shape.key_dim;
  const int64_t width = heads * dim;
  // Each head's own, whoever shares a key.
  std::vector<float> q(static_cast<size_t>(run.tokens * width));
  std::vector<float> k = q;
  for (int64_t i = 0; i < run.tokens * width; ++i) {
    const int64_t head = i % width / dim;
    const int64_t from = i / width * run.key_stride +
                         head / (heads / run.shape.key_heads) * dim + i % dim;
    q[i] = run.q[from];
    k[i] = run.k[from];
  }
  RunningSumArgs args = SumArgs(run.shape.key_dim);
  args.x = {k.data(), width};
  args.q = {q.data(), width};
  args.log2_decay = {run.log2_decay.data(), run.decay_stride};
  args.eps = sums.eps;
  args.out = sums.dots.data();
  args.out_stride = heads;
  args.state = sums.keys.data();
  args.state_stride = sums.keys_stride;
  engine::RunningSumReference(args);
}

void Work::ReferenceOfFloor() {
  const int64_t heads = run.shape.heads;
  const int64_t dim = run.shape.value_dim;
  std::vector<float> w(static_cast<size_t>(run.tokens * heads * dim));
  RunningSumArgs args = SumArgs(run.shape.value_dim);
  args.x = {run.v.data(), run.value_stride};
  args.out = w.data();
  args.out_stride = heads * dim;
  args.state = sums.values.data();
  args.state_stride = sums.values_stride;
  engine::RunningSumReference(args);

  const std::vector<float> ones(static_cast<size_t>(heads), 1.0F);
  std::vector<float> n(static_cast<size_t>(run.tokens * heads));
  args = SumArgs(1);
  args.x = {ones.data(), 0};
  args.out = n.data();
  args.out_stride = heads;
  args.state = sums.counts.data();
  args.state_stride = sums.counts_stride;
  engine::RunningSumReference(args);

  for (size_t row = 0; row < run.slots.size(); ++row) {
    if (run.slots[row] < 0) continue;
    for (int64_t i = run.row_starts[row] * heads;
         i < run.row_starts[row + 1] * heads;
         ++i) {
      const double weight = double{sums.floor} * sums.query_sums[i];
      sums.dots[i] = static_cast<float>(sums.dots[i] + weight * n[i]);
      float* out =
          run.out.data() + i / heads * run.value_stride + i % heads * dim;
      for (int64_t c = 0; c < dim; ++c) {
        out[c] = static_cast<float>(out[c] + weight * w[i * dim + c]);
      }
    }
  }
}

class KeySumsTest : public testing::TestWithParam<SumsCase> {
 protected:
  static Work Case(const std::vector<int32_t>& row_tokens) {
    return Work(GetParam(), row_tokens, 20261201);
  }

  static void ExpectEqualsReference(const Work& start, double rmse_max) {
    Work got = start;
    Work want = start;
    got.OnDevice();
    want.ByReference();
    for (size_t i = 0; i < start.run.slots.size(); ++i) {
      SCOPED_TRACE(i);
      const auto row = static_cast<int32_t>(i);
      EXPECT_LE(RelativeRmse(got.run.RowOut(row), want.run.RowOut(row)),
                rmse_max);
      EXPECT_LE(RelativeRmse(got.RowDots(row), want.RowDots(row)), rmse_max);
    }
    for (int32_t slot = 0; slot < start.run.slot_count; ++slot) {
      SCOPED_TRACE(slot);
      ExpectSlot(got, want, slot, rmse_max);
    }
    EXPECT_TRUE(got.run.GapsUntouched());
  }

  // Sums of two floats to more than one float's digits; the state of a bf16 is
  // within its two neighbours.
  static void ExpectSlot(const Work& got,
                         const Work& want,
                         int32_t slot,
                         double rmse_max) {
    const bool has_rest = HasRest(got.with);
    EXPECT_LE(RelativeRmse(got.run.SlotState(slot), want.run.SlotState(slot)),
              has_rest ? rmse_max : 5e-3);
    const auto of = [slot](const std::vector<float>& x, int64_t stride) {
      return Work::Slot(x, stride, slot);
    };
    const DeviceSums& a = got.sums;
    const DeviceSums& b = want.sums;
    EXPECT_LE(
        RelativeRmse(of(a.keys, a.keys_stride), of(b.keys, b.keys_stride)),
        rmse_max);
    EXPECT_LE(RelativeRmse(of(a.values, a.values_stride),
                           of(b.values, b.values_stride)),
              rmse_max);
    EXPECT_LE(RelativeRmse(of(a.counts, a.counts_stride),
                           of(b.counts, b.counts_stride)),
              rmse_max);
  }
};

TEST_P(KeySumsTest, EqualsTheReferenceOverARaggedBatch) {
  Work start = Case({1, 0, 5, 32, 2, 1, 17, 1, 3});
  start.run.slots = {3, 8, -1, 0, 7, 1, 5, 2, 4};

  ExpectEqualsReference(start, kRmseMax);
}

TEST_P(KeySumsTest, StrongDecaysAndNone) {
  for (const float log2_decay : {0.0F, -1e-7F, -0.4F, -0.6F, -1000.0F}) {
    SCOPED_TRACE(log2_decay);
    Work start = Case({9});
    start.run.SetLog2Decay(log2_decay);

    ExpectEqualsReference(start, 2e-6);
  }
}

TEST_P(KeySumsTest, AnySplitGivesTheSameBits) {
  // bf16 at rest is rounded at each split.
  if (!HasRest(GetParam().with)) return;
  Work whole = Case({20});
  Work split = whole;

  whole.OnDevice();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.run.row_starts = {at, at + count};
    split.OnDevice();
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(BitEqual(split.run.AllOut(), whole.run.AllOut()));
  EXPECT_TRUE(BitEqual(split.sums.dots, whole.sums.dots));
  EXPECT_TRUE(BitEqual(split.AllOf(0), whole.AllOf(0)));
}

TEST_P(KeySumsTest, NeighboursDoNotMatter) {
  // Enough of them for tiles of another height.
  const int32_t heads = GetParam().shape.heads;
  std::vector<int32_t> lengths(static_cast<size_t>(512 / heads + 1), 1);
  lengths[1] = 4;
  Work together = Case(lengths);
  Work alone = together;

  together.OnDevice();
  alone.run.row_starts = {alone.run.row_starts[1], alone.run.row_starts[2]};
  alone.run.slots = {1};
  alone.OnDevice();

  EXPECT_TRUE(BitEqual(alone.run.RowOut(0), together.run.RowOut(1)));
  EXPECT_TRUE(BitEqual(alone.RowDots(0), together.RowDots(1)));
  EXPECT_TRUE(BitEqual(alone.AllOf(1), together.AllOf(1)));
}

TEST_P(KeySumsTest, WhatNoRowNamesKeepsItsBits) {
  Work work = Case({2, 3, 1});
  work.run.slots = {2, -1, 0};
  const Work before = work;

  work.OnDevice();

  EXPECT_TRUE(BitEqual(work.AllOf(1), before.AllOf(1)));
  EXPECT_TRUE(BitEqual(work.RowDots(1), before.RowDots(1)));
  EXPECT_THAT(work.run.RowOut(1), testing::Each(kGapMark));
  EXPECT_FALSE(BitEqual(work.AllOf(2), before.AllOf(2)));
}

TEST_P(KeySumsTest, AFreshSlotReadsAsZeroWhateverItHolds) {
  Work fresh = Case({4, 0});
  Work zero = fresh;
  fresh.FillSlots(kNan);
  zero.FillSlots(0);

  fresh.OnDevice({0, 0});
  zero.OnDevice();

  EXPECT_TRUE(BitEqual(fresh.run.AllOut(), zero.run.AllOut()));
  EXPECT_TRUE(BitEqual(fresh.sums.dots, zero.sums.dots));
  EXPECT_TRUE(BitEqual(fresh.AllOf(0), zero.AllOf(0)));
  EXPECT_THAT(fresh.run.SlotState(1), testing::Each(testing::IsNan()));
}

// What a token adds may be less than the last bit of what is there.
TEST_P(KeySumsTest, WhatIsBelowTheLastBitIsKept) {
  if (!HasRest(GetParam().with)) return;
  Work work = Case({32});
  work.run.SetLog2Decay(0);
  work.run.RepeatTokens(1);
  work.FillSlots(0);
  for (float& x : work.run.state) {
    if (x != kGapMark) x = 16777216;
  }
  Work want = work;

  // 2^24 + 32 numbers of less than 1: one float would stay 2^24.
  work.OnDevice();
  want.ByReference();

  const std::vector<float> high = work.run.SlotState(0);
  const std::vector<float> high_wanted = want.run.SlotState(0);
  std::vector<float> added(high.size());
  std::vector<float> wanted(high.size());
  for (size_t i = 0; i < high.size(); ++i) {
    added[i] = (high[i] - 16777216) + work.sums.rest[i];
    wanted[i] = (high_wanted[i] - 16777216) + want.sums.rest[i];
  }
  EXPECT_LE(RelativeRmse(added, wanted), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         KeySumsTest,
                         testing::ValuesIn(Cases()),
                         NameOf);

TEST(KeySumsRefusalTest, WhatNoKernelTakesIsRefused) {
  RecurrenceCase run({.kind = RecurrenceKind::kPlain}, {1}, 1);
  std::vector<float> sums(1024);
  engine::DecodeArgs args;
  args.step = run.Args();
  args.step.state = nullptr;
  args.step.state_stride = 4096;
  alignas(16) static float state[4096];
  args.state = state;
  args.sums.keys = sums.data();
  args.sums.dots = sums.data();
  // Sums of a state in fp32 have a rest.
  EXPECT_EQ(engine::RecurrenceDecode(args, nullptr), cudaErrorInvalidValue);
  args.number = StateNumber::kBfloat16;
  args.sums.dots = nullptr;
  EXPECT_EQ(engine::RecurrenceDecode(args, nullptr), cudaErrorInvalidValue);
  // And none with a correction.
  args.sums.dots = sums.data();
  args.step.beta = {sums.data(), 1};
  EXPECT_EQ(engine::RecurrenceDecode(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace weir::gpu
