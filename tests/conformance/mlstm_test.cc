// SPDX-License-Identifier: Apache-2.0
//
// What mLSTM's gates and its readout must do, on every target of the machine.
#include "engine/kernels/mlstm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/kernels/kernel_target.h"
#include "engine/kernels/recurrence.h"

namespace weir::engine {
namespace {

constexpr float kMark = -7.5e30F;
constexpr float kCap = 15;
constexpr float kEps = 1e-6F;
constexpr int32_t kSlots = 8;

struct GateCase {
  // `forget` is what the forget gates lie around.
  GateCase(int32_t heads_in, float forget, const std::vector<int32_t>& tokens)
      : heads(heads_in) {
    for (const int32_t count : tokens) {
      slots.push_back(static_cast<int32_t>(slots.size()));
      row_starts.push_back(row_starts.back() + count);
    }
    const int64_t size = int64_t{row_starts.back()} * heads;
    std::mt19937 random(20240603);
    std::normal_distribution<float> normal;
    gates.resize(2 * size);
    for (int64_t i = 0; i < 2 * size; ++i) {
      const bool is_forget = i / heads % 2 == 1;
      gates[i] = is_forget ? forget + normal(random) : 4 * normal(random) - 3;
    }
    state.resize(kSlots * heads);
    for (float& m : state) m = normal(random);
    log2_decay.assign(size, kMark);
    write.assign(size, kMark);
    floor.assign(size, kMark);
  }

  MlstmGateArgs Args() {
    MlstmGateArgs args;
    args.rows = static_cast<int32_t>(slots.size());
    args.heads = heads;
    args.row_starts = row_starts.data();
    args.slots = slots.data();
    args.input = {gates.data(), int64_t{2} * heads};
    args.forget = {gates.data() + heads, int64_t{2} * heads};
    args.cap = kCap;
    args.log2_decay = log2_decay.data();
    args.write = write.data();
    args.floor = floor.data();
    args.state = state.data();
    args.state_stride = heads;
    return args;
  }
  int64_t items() const { return static_cast<int64_t>(slots.size()) * heads; }
  void Run() { MlstmGates(Args(), 0, items()); }

  double Input(int64_t t, int64_t head) const {
    return kCap * std::tanh(gates[2 * t * heads + head] / double{kCap});
  }
  double LogForget(int64_t t, int64_t head) const {
    const double x =
        kCap * std::tanh(gates[(2 * t + 1) * heads + head] / double{kCap});
    return -std::log1p(std::exp(-x));
  }

  int32_t heads;
  std::vector<int32_t> row_starts = {0};
  std::vector<int32_t> slots;
  std::vector<float> gates;  // [T][2, heads]: input, forget
  std::vector<float> log2_decay, write, floor, state;
};

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool SameGates(const GateCase& a, const GateCase& b) {
  return BitEqual(a.log2_decay, b.log2_decay) && BitEqual(a.write, b.write) &&
         BitEqual(a.floor, b.floor) && BitEqual(a.state, b.state);
}

// Whatever maximum was chosen, e^m times what a token wrote and times all
// decays since is e^i times all forget gates since.
void ExpectConsistent(const GateCase& gates, const std::vector<float>& start) {
  const int64_t tokens = gates.row_starts.back();
  for (int64_t head = 0; head < gates.heads; ++head) {
    double decayed = start[head];
    double forgotten = start[head];
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = t * gates.heads + head;
      const double m = -std::log(double{gates.floor[at]});
      const double i = gates.Input(t, head);
      ASSERT_LE(gates.log2_decay[at], 0) << t;
      ASSERT_LE(gates.write[at], 1) << t;
      ASSERT_NEAR(std::log(double{gates.write[at]}) + m, i, 2e-5) << t;
      decayed += gates.log2_decay[at] * std::log(2.0);
      forgotten += gates.LogForget(t, head);
      // What the first state weighs now: e^m decays, and all forget gates.
      ASSERT_NEAR(m + decayed - start[head],
                  forgotten,
                  2e-5 + 1e-5 * std::abs(forgotten))
          << t;
    }
  }
}

// Target, heads.
using Param = std::tuple<std::string, int32_t>;

class MlstmGatesTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }

  GateCase Case(const std::vector<int32_t>& tokens, float forget = 3) const {
    return {std::get<1>(GetParam()), forget, tokens};
  }
};

TEST_P(MlstmGatesTest, TheWeightsOfAllTokensAreThoseOfTheFormula) {
  for (const float forget : {-20.0F, -3.0F, 0.0F, 3.0F, 9.0F, 40.0F}) {
    GateCase gates = Case({300}, forget);
    const std::vector<float> start = gates.state;
    GateCase reference = gates;

    gates.Run();
    MlstmGatesReference(reference.Args());

    ExpectConsistent(gates, start);
    ExpectConsistent(reference, start);
  }
}

// A forget gate so near one that it is below the last bit of the maximum.
TEST_P(MlstmGatesTest, ALongStreamLosesNothing) {
  GateCase gates = Case({100'000}, 40);
  for (int64_t t = 1; t < 100'000; ++t) {
    for (int64_t head = 0; head < gates.heads; ++head) {
      gates.gates[2 * t * gates.heads + head] = -5;
    }
  }
  const std::vector<float> start = gates.state;

  gates.Run();

  ExpectConsistent(gates, start);
}

TEST_P(MlstmGatesTest, AnySplitOfARowGivesTheSameBits) {
  GateCase whole = Case({20});
  GateCase split = whole;

  whole.Run();
  int32_t at = 0;
  for (const int32_t count : {1, 2, 0, 1, 9, 7}) {
    split.row_starts = {at, at + count};
    split.Run();
    at += count;
  }

  ASSERT_EQ(at, 20);
  EXPECT_TRUE(SameGates(split, whole));
}

TEST_P(MlstmGatesTest, ItemsMayBeRunOneByOneInAnyOrder) {
  GateCase together = Case({5, 1, 12});
  GateCase apart = together;

  together.Run();
  for (int64_t item = apart.items(); item > 0; --item) {
    MlstmGates(apart.Args(), item - 1, item);
  }

  EXPECT_TRUE(SameGates(apart, together));
}

TEST_P(MlstmGatesTest, APaddingRowIsNeitherReadNorWritten) {
  GateCase gates = Case({4, 4});
  gates.slots = {-1, 0};
  MlstmGateArgs args = gates.Args();
  // Were an address formed for slot -1, it would be far outside.
  args.state_stride = int64_t{1} << 44;

  MlstmGates(args, 0, gates.items());

  const auto second = gates.write.begin() + 4 * gates.heads;
  EXPECT_THAT(std::vector<float>(gates.write.begin(), second),
              testing::Each(kMark));
  EXPECT_NE(*second, kMark);
}

// One head's h by the formulas without any maximum, which fp64 can hold.
std::vector<double> HiddenOf(const GateCase& gates,
                             int64_t head,
                             int keys,
                             int values,
                             const std::vector<float>& qkv) {
  const int64_t width = int64_t{gates.heads} * (2 * keys + values);
  const double scale = 1 / std::sqrt(double(keys));
  std::vector<double> c(keys * (values + 1));
  std::vector<double> out;
  double m = 0;
  for (int64_t t = 0; t < gates.row_starts.back(); ++t) {
    const float* q = qkv.data() + t * width + head * keys;
    const float* k = q + gates.heads * keys;
    const float* v =
        qkv.data() + t * width + 2 * gates.heads * keys + head * values;
    const double log_f = gates.LogForget(t, head);
    const double i = gates.Input(t, head);
    m = std::max(m + log_f, i);
    std::vector<double> sums(values + 1);
    for (int a = 0; a < keys; ++a) {
      for (int b = 0; b <= values; ++b) {
        double& s = c[a * (values + 1) + b];
        s = std::exp(log_f) * s +
            std::exp(i) * k[a] * (b < values ? double{v[b]} : 1);
        sums[b] += scale * q[a] * s;
      }
    }
    const double divisor =
        std::max(std::abs(sums[values]), 1.0) + kEps * std::exp(m);
    for (int b = 0; b < values; ++b) out.push_back(sums[b] / divisor);
  }
  return out;
}

// Relative root mean square of `hidden` [T][heads, values].
double HiddenError(const GateCase& gates,
                   int keys,
                   int values,
                   const std::vector<float>& qkv,
                   const std::vector<float>& hidden) {
  double error = 0;
  double size = 0;
  for (int64_t head = 0; head < gates.heads; ++head) {
    const auto want = HiddenOf(gates, head, keys, values, qkv);
    for (size_t i = 0; i < want.size(); ++i) {
      const size_t at = (i / values * gates.heads + head) * values + i % values;
      error += (hidden[at] - want[i]) * (hidden[at] - want[i]);
      size += want[i] * want[i];
    }
  }
  return std::sqrt(error / size);
}

TEST_P(MlstmGatesTest, TheWholeStepIsThatOfTheFormula) {
  constexpr int kKeys = 16;
  constexpr int kValues = 13;
  for (const bool chunk : {false, true}) {
    GateCase gates = Case({150});
    for (float& m : gates.state) m = 0;
    const int64_t heads = gates.heads;
    const int64_t width = heads * (2 * kKeys + kValues);
    const int64_t extended = heads * (kValues + 1);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> qkv(150 * width);
    // Above zero, as v may be: where n^T q cancels out, h has no exact value.
    for (float& value : qkv) value = std::abs(normal(random));
    std::vector<float> values(150 * extended), sums(150 * extended);
    std::vector<float> hidden(150 * heads * kValues);
    std::vector<float> state(extended * kKeys);
    const int32_t slot = 0;

    gates.Run();
    MlstmValues({.heads = gates.heads,
                 .value_dim = kValues,
                 .v = {qkv.data() + 2 * heads * kKeys, width},
                 .write = gates.write.data(),
                 .out = values.data()},
                0,
                150);
    const RecurrenceArgs recurrence = {
        .rows = 1,
        .heads = gates.heads,
        .key_heads = gates.heads,
        .key_dim = kKeys,
        .value_dim = kValues + 1,
        .row_starts = gates.row_starts.data(),
        .slots = &slot,
        .q = {qkv.data(), width},
        .k = {qkv.data() + heads * kKeys, width},
        .v = {values.data(), extended},
        .log2_decay = {gates.log2_decay.data(), heads},
        .out = sums.data(),
        .out_stride = extended,
        .state = state.data(),
        .state_stride = extended * kKeys};
    if (chunk) {
      RecurrenceChunk(recurrence, 0, heads);
    } else {
      RecurrenceRecurrent(recurrence, 0, heads);
    }
    MlstmRead({.heads = gates.heads,
               .value_dim = kValues,
               .x = sums.data(),
               .floor = gates.floor.data(),
               .scale = 1.0F / 4,
               .eps = kEps,
               .out = hidden.data()},
              0,
              150);

    EXPECT_LE(HiddenError(gates, kKeys, kValues, qkv, hidden), 1e-5)
        << "chunk " << chunk;
  }
}

std::vector<std::string> Targets() {
  std::vector<std::string> targets;
  for (const std::string_view name : KernelTargets()) {
    targets.emplace_back(name);
  }
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         MlstmGatesTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::Values(4, 1, 19)));

}  // namespace
}  // namespace weir::engine
