// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/recurrence_case.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace weir::engine {
namespace {

constexpr int64_t kGap = 5;

std::vector<float> Marked(int64_t count, int64_t stride) {
  return std::vector<float>(static_cast<size_t>(count * stride), kGapMark);
}

void FillNormal(std::mt19937& random,
                int64_t count,
                int64_t stride,
                std::vector<float>& x) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < x.size(); i += stride) {
    for (int64_t j = 0; j < count; ++j) x[i + j] = normal(random);
  }
}

void FillUniform(std::mt19937& random,
                 float low,
                 float high,
                 int64_t stride,
                 std::vector<float>& x) {
  std::uniform_real_distribution<float> uniform(low, high);
  for (size_t i = 0; i < x.size(); i += stride) {
    for (int64_t j = 0; j < stride - kGap; ++j) x[i + j] = uniform(random);
  }
}

void NormalizeHeads(int32_t heads,
                    int32_t dim,
                    int64_t stride,
                    std::vector<float>& x) {
  for (size_t i = 0; i < x.size(); i += stride) {
    for (int32_t h = 0; h < heads; ++h) {
      float* p = x.data() + i + h * dim;
      double sum = 0;
      for (int32_t j = 0; j < dim; ++j) sum += double{p[j]} * p[j];
      const auto scale = static_cast<float>(1 / std::sqrt(sum));
      for (int32_t j = 0; j < dim; ++j) p[j] *= scale;
    }
  }
}

void Repeat(int64_t period, int64_t stride, std::vector<float>& x) {
  for (size_t i = period * stride; i < x.size(); ++i) {
    x[i] = x[i - period * stride];
  }
}

void Fill(float value, int64_t stride, std::vector<float>& x) {
  for (size_t i = 0; i < x.size(); i += stride) {
    for (int64_t j = 0; j < stride - kGap; ++j) x[i + j] = value;
  }
}

std::vector<float> Packed(const std::vector<float>& x,
                          int64_t begin,
                          int64_t end,
                          int64_t stride) {
  std::vector<float> packed;
  for (int64_t i = begin; i < end; ++i) {
    packed.insert(packed.end(),
                  x.begin() + i * stride,
                  x.begin() + (i + 1) * stride - kGap);
  }
  return packed;
}

bool Untouched(int64_t stride, const std::vector<float>& x) {
  for (size_t i = 0; i < x.size(); i += stride) {
    for (int64_t j = stride - kGap; j < stride; ++j) {
      if (x[i + j] != kGapMark) return false;
    }
  }
  return true;
}

}  // namespace

RecurrenceCase::RecurrenceCase(RecurrenceShape shape_in,
                               const std::vector<int32_t>& row_tokens,
                               uint32_t seed)
    : shape(shape_in), row_starts({0}) {
  for (const int32_t count : row_tokens) {
    slots.push_back(slot_count++);
    row_starts.push_back(row_starts.back() + count);
  }
  tokens = row_starts.back();
  const int64_t state_floats =
      int64_t{shape.heads} * shape.key_dim * shape.value_dim;
  key_stride = int64_t{shape.key_heads} * shape.key_dim + kGap;
  value_stride = int64_t{shape.heads} * shape.value_dim + kGap;
  gate_stride = shape.heads + kGap;
  decay_stride = decays() + kGap;
  correction_stride = int64_t{shape.heads} * shape.key_dim + kGap;
  state_stride = state_floats + kGap;
  q = k = Marked(tokens, key_stride);
  v = out = Marked(tokens, value_stride);
  log2_decay = Marked(tokens, decay_stride);
  beta = Marked(tokens, gate_stride);
  a = b = Marked(tokens, correction_stride);
  state = Marked(slot_count, state_stride);

  std::mt19937 random(seed);
  FillNormal(random, key_stride - kGap, key_stride, q);
  FillNormal(random, key_stride - kGap, key_stride, k);
  FillNormal(random, value_stride - kGap, value_stride, v);
  FillNormal(random, state_floats, state_stride, state);
  NormalizeHeads(shape.key_heads, shape.key_dim, key_stride, q);
  NormalizeHeads(shape.key_heads, shape.key_dim, key_stride, k);
  FillUniform(random, -1.0F, -0.0015F, decay_stride, log2_decay);
  FillUniform(random, 0.0F, 1.0F, gate_stride, beta);
  bonus = Marked(1, correction_stride);
  FillNormal(random, correction_stride - kGap, correction_stride, bonus);
  DeriveCorrection();
}

int64_t RecurrenceCase::decays() const {
  switch (shape.kind) {
    case RecurrenceKind::kPlain:
    case RecurrenceKind::kDelta:
      return shape.heads;
    case RecurrenceKind::kByValue:
      return int64_t{shape.heads} * shape.value_dim;
    default:
      return int64_t{shape.heads} * shape.key_dim;
  }
}

void RecurrenceCase::DeriveCorrection() {
  const bool decayed = shape.kind == RecurrenceKind::kDecayed;
  if (!decayed && shape.kind != RecurrenceKind::kUndecayed) return;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < decays(); ++i) {
      const int64_t head = i / shape.key_dim;
      const int64_t key_head = head / (shape.heads / shape.key_heads);
      const float key =
          k[t * key_stride + key_head * shape.key_dim + i % shape.key_dim];
      const float decay =
          decayed ? std::exp2(log2_decay[t * decay_stride + i]) : 1.0F;
      a[t * correction_stride + i] = -decay * key;
      b[t * correction_stride + i] = beta[t * gate_stride + head] * key;
    }
  }
}

RecurrenceArgs RecurrenceCase::Args() {
  RecurrenceArgs args;
  args.rows = static_cast<int32_t>(slots.size());
  args.heads = shape.heads;
  args.key_heads = shape.key_heads;
  args.key_dim = shape.key_dim;
  args.value_dim = shape.value_dim;
  args.row_starts = row_starts.data();
  args.slots = slots.data();
  args.q = {q.data(), key_stride};
  args.k = {k.data(), key_stride};
  args.v = {v.data(), value_stride};
  args.log2_decay = {log2_decay.data(), decay_stride};
  switch (shape.kind) {
    case RecurrenceKind::kPlain:
      break;
    case RecurrenceKind::kDelta:
      args.beta = {beta.data(), gate_stride};
      break;
    case RecurrenceKind::kDecayed:
      args.decay = DecayKind::kKey;
      args.a = {a.data(), correction_stride};
      args.beta = {beta.data(), gate_stride};
      break;
    case RecurrenceKind::kUndecayed:
      args.a = {a.data(), correction_stride};
      args.b = {b.data(), correction_stride};
      [[fallthrough]];
    case RecurrenceKind::kChannel:
      args.decay = DecayKind::kKey;
      break;
    case RecurrenceKind::kReadBefore:
      args.decay = DecayKind::kKey;
      args.read = ReadOrder::kBeforeWrite;
      args.bonus = bonus.data();
      break;
    case RecurrenceKind::kByValue:
      args.decay = DecayKind::kValue;
      break;
  }
  args.out = out.data();
  args.out_stride = value_stride;
  args.state = state.data();
  args.state_stride = state_stride;
  return args;
}

void RecurrenceCase::Run(RecurrenceForm form) {
  Run(form, 0, static_cast<int64_t>(slots.size()) * shape.heads);
}

void RecurrenceCase::Run(RecurrenceForm form, int64_t begin, int64_t end) {
  const RecurrenceArgs args = Args();
  switch (form) {
    case RecurrenceForm::kReference:
      return RecurrenceReference(args);
    case RecurrenceForm::kRecurrent:
      return RecurrenceRecurrent(args, begin, end);
    case RecurrenceForm::kChunk:
      return RecurrenceChunk(args, begin, end);
  }
}

void RecurrenceCase::RepeatTokens(int32_t period) {
  Repeat(period, key_stride, q);
  Repeat(period, key_stride, k);
  Repeat(period, value_stride, v);
  DeriveCorrection();
}

void RecurrenceCase::SetLog2Decay(float value) {
  Fill(value, decay_stride, log2_decay);
  DeriveCorrection();
}

void RecurrenceCase::SetBeta(float value) {
  Fill(value, gate_stride, beta);
  DeriveCorrection();
}

std::vector<float> RecurrenceCase::RowOut(int32_t row) const {
  return Packed(out, row_starts[row], row_starts[row + 1], value_stride);
}

std::vector<float> RecurrenceCase::SlotState(int32_t slot) const {
  return Packed(state, slot, slot + 1, state_stride);
}

std::vector<float> RecurrenceCase::AllOut() const {
  return Packed(out, 0, tokens, value_stride);
}

std::vector<float> RecurrenceCase::AllStates() const {
  return Packed(state, 0, slot_count, state_stride);
}

bool RecurrenceCase::GapsUntouched() const {
  return Untouched(value_stride, out) && Untouched(state_stride, state);
}

double RelativeRmse(const std::vector<float>& got,
                    const std::vector<float>& want) {
  if (want.empty()) return 0;
  double error = 0;
  double square = 1e-60 * static_cast<double>(want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    const double difference = double{got[i]} - double{want[i]};
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    error += difference * difference;
    square += double{want[i]} * want[i];
  }
  return std::sqrt(error / square);
}

bool BitEqual(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  // memcmp takes no null, not even of no bytes.
  return a.empty() ||
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace weir::engine
