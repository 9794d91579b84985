// SPDX-License-Identifier: Apache-2.0
//
// What mixers have in common, as equations: one is another with some of its
// gates held fixed. Kernels of different code must then give the same, on every
// target of the machine. And the reference, which all else is held against, is
// held against the one formula in long double.
#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "engine/kernels/kernel_target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/conformance/recurrence_case.h"

namespace weir::engine {
namespace {

constexpr double kRmseMax = 1e-5;
constexpr uint32_t kSeed = 20261128;
constexpr RecurrenceShape kShape = {
    .heads = 4, .key_heads = 2, .key_dim = 20, .value_dim = 12};

RecurrenceCase CaseOf(RecurrenceKind kind) {
  RecurrenceShape shape = kShape;
  shape.kind = kind;
  // The arrays that two kinds share are drawn alike but for the decays' number.
  return RecurrenceCase(shape, {1, 40, 0, 150}, kSeed);
}

// The queries, keys, values, betas and states of another kind.
void TakeTokens(const RecurrenceCase& from, RecurrenceCase& to) {
  to.q = from.q;
  to.k = from.k;
  to.v = from.v;
  to.beta = from.beta;
  to.state = from.state;
}

// Each head's one decay for all its channels.
void SpreadDecays(const RecurrenceCase& from, RecurrenceCase& to) {
  const int64_t width = to.decays() / to.shape.heads;
  for (int64_t t = 0; t < to.tokens; ++t) {
    for (int64_t i = 0; i < to.decays(); ++i) {
      to.log2_decay[t * to.decay_stride + i] =
          from.log2_decay[t * from.decay_stride + i / width];
    }
  }
}

// v <- beta v, where the mixer has that in its values.
void ScaleValues(RecurrenceCase& rows) {
  for (int64_t t = 0; t < rows.tokens; ++t) {
    for (int64_t i = 0; i < int64_t{kShape.heads} * kShape.value_dim; ++i) {
      rows.v[t * rows.value_stride + i] *=
          rows.beta[t * rows.gate_stride + i / kShape.value_dim];
    }
  }
}

// Both sides of an equation.
struct Sides {
  RecurrenceCase left;
  RecurrenceCase right;
};

// KDA with one decay for all channels of a head is Gated DeltaNet.
Sides KdaIsGatedDeltaNet() {
  Sides sides = {CaseOf(RecurrenceKind::kDecayed),
                 CaseOf(RecurrenceKind::kDelta)};
  TakeTokens(sides.right, sides.left);
  SpreadDecays(sides.right, sides.left);
  sides.left.DeriveCorrection();
  return sides;
}

// So is RWKV-7's form with a = -d k, b = beta k, which acts before decay.
Sides Rwkv7FormIsGatedDeltaNet() {
  Sides sides = {CaseOf(RecurrenceKind::kUndecayed),
                 CaseOf(RecurrenceKind::kDelta)};
  TakeTokens(sides.right, sides.left);
  SpreadDecays(sides.right, sides.left);
  sides.left.shape.kind = RecurrenceKind::kDecayed;
  sides.left.DeriveCorrection();
  sides.left.shape.kind = RecurrenceKind::kUndecayed;
  ScaleValues(sides.left);
  return sides;
}

// GLA with equal decays is RetNet's decay, Mamba-2's and simple GLA's.
Sides GlaIsDecayedLinearAttention() {
  Sides sides = {CaseOf(RecurrenceKind::kChannel),
                 CaseOf(RecurrenceKind::kPlain)};
  TakeTokens(sides.right, sides.left);
  SpreadDecays(sides.right, sides.left);
  return sides;
}

// It does not matter on which side equal decays stand.
Sides DecayedValuesAreDecayedKeys() {
  Sides sides = {CaseOf(RecurrenceKind::kByValue),
                 CaseOf(RecurrenceKind::kPlain)};
  TakeTokens(sides.right, sides.left);
  SpreadDecays(sides.right, sides.left);
  return sides;
}

// Without betas nothing is corrected and nothing written: a state only fades.
Sides NoBetaIsNoDelta() {
  Sides sides = {CaseOf(RecurrenceKind::kDelta),
                 CaseOf(RecurrenceKind::kPlain)};
  sides.left.SetBeta(0);
  sides.right = sides.left;
  sides.right.shape.kind = RecurrenceKind::kPlain;
  for (size_t i = 0; i < sides.right.v.size(); ++i) {
    if (sides.right.v[i] != kGapMark) sides.right.v[i] = 0;
  }
  return sides;
}

// RWKV-6 reads before it writes. With a bonus of one and no decay that is
// GLA, which reads after.
Sides Rwkv6WithABonusOfOneIsGla() {
  Sides sides = {CaseOf(RecurrenceKind::kReadBefore),
                 CaseOf(RecurrenceKind::kChannel)};
  TakeTokens(sides.right, sides.left);
  sides.left.SetLog2Decay(0);
  sides.right.SetLog2Decay(0);
  std::fill(sides.left.bonus.begin(), sides.left.bonus.end(), 1.0F);
  return sides;
}

// RWKV-7's form without its correction is GLA.
Sides Rwkv7FormWithoutCorrectionIsGla() {
  Sides sides = {CaseOf(RecurrenceKind::kUndecayed),
                 CaseOf(RecurrenceKind::kChannel)};
  TakeTokens(sides.right, sides.left);
  sides.left.log2_decay = sides.right.log2_decay;
  std::fill(sides.left.b.begin(), sides.left.b.end(), 0.0F);
  return sides;
}

struct Identity {
  const char* name;
  Sides (*sides)();
};

constexpr Identity kIdentities[] = {
    {"KdaIsGatedDeltaNet", KdaIsGatedDeltaNet},
    {"Rwkv7FormIsGatedDeltaNet", Rwkv7FormIsGatedDeltaNet},
    {"GlaIsDecayedLinearAttention", GlaIsDecayedLinearAttention},
    {"DecayedValuesAreDecayedKeys", DecayedValuesAreDecayedKeys},
    {"NoBetaIsNoDelta", NoBetaIsNoDelta},
    {"Rwkv6WithABonusOfOneIsGla", Rwkv6WithABonusOfOneIsGla},
    {"Rwkv7FormWithoutCorrectionIsGla", Rwkv7FormWithoutCorrectionIsGla},
};

constexpr RecurrenceForm kForms[] = {RecurrenceForm::kReference,
                                     RecurrenceForm::kRecurrent,
                                     RecurrenceForm::kChunk};

class IdentityTest
    : public testing::TestWithParam<std::tuple<std::string, Identity>> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ForceKernelTarget(std::get<0>(GetParam())));
  }
  void TearDown() override { ForceKernelTarget(""); }
};

TEST_P(IdentityTest, HoldsInEveryForm) {
  for (const RecurrenceForm form : kForms) {
    SCOPED_TRACE(testing::Message() << "form " << static_cast<int>(form));
    Sides sides = std::get<1>(GetParam()).sides();

    sides.left.Run(form);
    sides.right.Run(form);

    EXPECT_LE(RelativeRmse(sides.left.AllOut(), sides.right.AllOut()),
              kRmseMax);
    EXPECT_LE(RelativeRmse(sides.left.AllStates(), sides.right.AllStates()),
              kRmseMax);
  }
}

std::vector<std::string> Targets() {
  std::vector<std::string> targets;
  for (const std::string_view name : KernelTargets()) {
    targets.emplace_back(name);
  }
  return targets;
}

INSTANTIATE_TEST_SUITE_P(
    Targets,
    IdentityTest,
    testing::Combine(testing::ValuesIn(Targets()),
                     testing::ValuesIn(kIdentities)),
    [](const testing::TestParamInfo<IdentityTest::ParamType>& info) {
      return std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
    });

class RecurrenceLawTest : public testing::TestWithParam<NamedKind> {};

// Any stretch of tokens acts on a state as S -> M S + X: what two states become
// together is what each becomes, but for what the tokens write.
TEST_P(RecurrenceLawTest, AStretchOfTokensIsAffineInTheState) {
  for (const RecurrenceForm form : kForms) {
    SCOPED_TRACE(testing::Message() << "form " << static_cast<int>(form));
    RecurrenceCase first = CaseOf(GetParam().kind);
    RecurrenceCase second = first;
    RecurrenceCase sum = first;
    RecurrenceCase none = first;
    std::reverse(second.state.begin(), second.state.end());
    for (size_t i = 0; i < sum.state.size(); ++i) {
      if (first.state[i] == kGapMark) second.state[i] = 0;
      if (second.state[i] == kGapMark) second.state[i] = 0;
      sum.state[i] = first.state[i] + second.state[i];
      none.state[i] = 0;
    }

    for (RecurrenceCase* rows : {&first, &second, &sum, &none}) rows->Run(form);

    const auto expect = [](const std::vector<float>& of_sum,
                           std::vector<float> of_first,
                           const std::vector<float>& of_second,
                           const std::vector<float>& of_none) {
      for (size_t i = 0; i < of_first.size(); ++i) {
        of_first[i] += of_second[i] - of_none[i];
      }
      EXPECT_LE(RelativeRmse(of_sum, of_first), kRmseMax);
    };
    expect(sum.AllOut(), first.AllOut(), second.AllOut(), none.AllOut());
    expect(sum.AllStates(),
           first.AllStates(),
           second.AllStates(),
           none.AllStates());
  }
}

// A normaliser, a sum of keys, is one more value into which 1 is written.
TEST_P(RecurrenceLawTest, ASumIsAValueOfOnes) {
  for (const RecurrenceForm form : kForms) {
    SCOPED_TRACE(testing::Message() << "form " << static_cast<int>(form));
    RecurrenceCase wide = CaseOf(GetParam().kind);
    RecurrenceShape shape = wide.shape;
    shape.value_dim = 1;
    RecurrenceCase sum(shape, {1, 40, 0, 150}, kSeed);
    const int64_t heads = shape.heads;
    const int64_t dim = kShape.value_dim;
    sum.q = wide.q;
    sum.k = wide.k;
    sum.beta = wide.beta;
    sum.bonus = wide.bonus;
    for (int64_t t = 0; t < wide.tokens; ++t) {
      const int64_t decays = sum.decays() / heads;
      const int64_t step = wide.decays() / heads;
      for (int64_t i = 0; i < sum.decays(); ++i) {
        sum.log2_decay[t * sum.decay_stride + i] =
            wide.log2_decay[t * wide.decay_stride + i / decays * step +
                            i % decays];
      }
      for (int64_t h = 0; h < heads; ++h) {
        wide.v[t * wide.value_stride + h * dim] = 1;
        sum.v[t * sum.value_stride + h] = 1;
      }
    }
    sum.DeriveCorrection();
    for (int32_t slot = 0; slot < wide.slot_count; ++slot) {
      for (int64_t h = 0; h < heads; ++h) {
        std::copy_n(
            wide.state.begin() + slot * wide.state_stride +
                h * dim * shape.key_dim,
            shape.key_dim,
            sum.state.begin() + slot * sum.state_stride + h * shape.key_dim);
      }
    }

    wide.Run(form);
    sum.Run(form);

    const std::vector<float> out = wide.AllOut();
    std::vector<float> ones;
    for (size_t i = 0; i < out.size(); i += kShape.value_dim) {
      ones.push_back(out[i]);
    }
    EXPECT_LE(RelativeRmse(sum.AllOut(), ones), kRmseMax);
  }
}

// One head of one row by S <- Diag(d) S + b (a^T S) + k v^T with a^T S before
// decay and o = S^T q, as published, in long double.
class LongDoubleHead {
 public:
  LongDoubleHead(RecurrenceCase& rows, int32_t slot, int64_t head)
      : rows_(rows), args_(rows.Args()), head_(head) {
    const float* from =
        rows.state.data() + slot * rows.state_stride + head * keys() * values();
    for (int64_t i = 0; i < keys() * values(); ++i) {
      s_.push_back(from[i % values() * keys() + i / values()]);
    }
  }

  std::vector<float> Step(int64_t t) {
    const RecurrenceKind kind = rows_.shape.kind;
    const bool scaled =
        kind == RecurrenceKind::kDelta || kind == RecurrenceKind::kDecayed;
    const long double beta = scaled ? At(args_.beta, t, head_) : 1;
    std::vector<long double> before(static_cast<size_t>(values()));
    std::vector<long double> correction(before.size());
    long double bonus = 0;
    for (int64_t i = 0; i < keys(); ++i) {
      for (int64_t j = 0; j < values(); ++j) {
        before[j] += Query(t, i) * s_[i * values() + j];
        correction[j] += A(t, i) * s_[i * values() + j];
      }
      bonus += Query(t, i) * Key(t, i) * rows_.bonus[head_ * keys() + i];
    }
    std::vector<long double> after(before.size());
    for (int64_t i = 0; i < keys(); ++i) {
      const long double b = kind == RecurrenceKind::kUndecayed
                                ? At(args_.b, t, head_ * keys() + i)
                                : beta * Key(t, i);
      for (int64_t j = 0; j < values(); ++j) {
        long double& s = s_[i * values() + j];
        s = Decay(t, i, j) * s + b * correction[j] +
            Key(t, i) * beta * Value(t, j);
        after[j] += Query(t, i) * s;
      }
    }
    std::vector<float> out;
    for (int64_t j = 0; j < values(); ++j) {
      out.push_back(static_cast<float>(kind == RecurrenceKind::kReadBefore
                                           ? before[j] + bonus * Value(t, j)
                                           : after[j]));
    }
    return out;
  }

  std::vector<float> State() const {
    std::vector<float> state;
    for (int64_t i = 0; i < keys() * values(); ++i) {
      state.push_back(
          static_cast<float>(s_[i % keys() * values() + i / keys()]));
    }
    return state;
  }

 private:
  static long double At(const TokenRows& rows, int64_t t, int64_t i) {
    return rows.data[t * rows.stride + i];
  }
  int64_t keys() const { return args_.key_dim; }
  int64_t values() const { return args_.value_dim; }
  int64_t first_key() const {
    return head_ / (args_.heads / args_.key_heads) * keys();
  }
  long double Query(int64_t t, int64_t i) const {
    return At(args_.q, t, first_key() + i);
  }
  long double Key(int64_t t, int64_t i) const {
    return At(args_.k, t, first_key() + i);
  }
  long double Value(int64_t t, int64_t j) const {
    return At(args_.v, t, head_ * values() + j);
  }
  long double Decay(int64_t t, int64_t i, int64_t j) const {
    const int64_t width = rows_.decays() / args_.heads;
    const int64_t channel = args_.decay == DecayKind::kHead  ? 0
                            : args_.decay == DecayKind::kKey ? i
                                                             : j;
    return std::exp2(At(args_.log2_decay, t, head_ * width + channel));
  }
  long double A(int64_t t, int64_t i) const {
    switch (rows_.shape.kind) {
      case RecurrenceKind::kDelta:
        return -Decay(t, i, 0) * Key(t, i);
      case RecurrenceKind::kDecayed:
      case RecurrenceKind::kUndecayed:
        return At(args_.a, t, head_ * keys() + i);
      default:
        return 0;
    }
  }

  const RecurrenceCase& rows_;
  const RecurrenceArgs args_;
  const int64_t head_;
  std::vector<long double> s_;  // [K, V]
};

TEST_P(RecurrenceLawTest, TheReferenceIsTheFormulaRoundedOnce) {
  RecurrenceCase got = CaseOf(GetParam().kind);
  RecurrenceCase start = got;

  got.Run(RecurrenceForm::kReference);

  std::vector<float> outs;
  std::vector<float> want_outs;
  std::vector<float> want_states;
  for (int32_t row = 0; row < 4; ++row) {
    for (int32_t head = 0; head < kShape.heads; ++head) {
      LongDoubleHead want(start, row, head);
      for (int32_t t = got.row_starts[row]; t < got.row_starts[row + 1]; ++t) {
        const std::vector<float> more = want.Step(t);
        want_outs.insert(want_outs.end(), more.begin(), more.end());
        const auto from = got.out.begin() + t * got.value_stride +
                          int64_t{head} * kShape.value_dim;
        outs.insert(outs.end(), from, from + kShape.value_dim);
      }
      const std::vector<float> state = want.State();
      want_states.insert(want_states.end(), state.begin(), state.end());
    }
  }
  // A tenth of what one rounding to fp32 may be.
  EXPECT_LE(RelativeRmse(outs, want_outs), 6e-9);
  EXPECT_LE(RelativeRmse(got.AllStates(), want_states), 6e-9);
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         RecurrenceLawTest,
                         testing::ValuesIn(kRecurrenceKinds),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace weir::engine
