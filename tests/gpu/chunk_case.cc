// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/chunk_case.h"

#include <gtest/gtest.h>

#include <span>

#include "tests/gpu/device_recurrence.h"

namespace weir::gpu {
namespace {

using engine::kGapMark;
using engine::RecurrenceCase;
using engine::RecurrenceKind;
using engine::StateNumber;

// Of the device's arrays: a multiple of 16 bytes.
constexpr int64_t kGap = 8;

int64_t KeyNumbers(const RecurrenceCase& work) {
  return int64_t{work.shape.key_heads} * work.shape.key_dim;
}
int64_t ValueNumbers(const RecurrenceCase& work) {
  return int64_t{work.shape.heads} * work.shape.value_dim;
}
int64_t StateNumbers(const RecurrenceCase& work) {
  return ValueNumbers(work) * work.shape.key_dim;
}

// `items` of `count` numbers each, `stride` apart in x, kGap after each.
template <typename T, typename Convert>
std::vector<T> Spread(const std::vector<float>& x,
                      int64_t items,
                      int64_t count,
                      int64_t stride,
                      Convert convert) {
  std::vector<T> spread(static_cast<size_t>(items * (count + kGap)),
                        convert(kGapMark));
  for (int64_t i = 0; i < items; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      spread[i * (count + kGap) + j] = convert(x[i * stride + j]);
    }
  }
  return spread;
}

// The other way; fails where a gap was written.
template <typename T, typename Convert>
void Gather(const std::vector<T>& spread,
            int64_t items,
            int64_t count,
            int64_t stride,
            Convert convert,
            std::vector<float>& x) {
  const float mark = convert(spread[count]);
  for (int64_t i = 0; i < items; ++i) {
    for (int64_t j = 0; j < count + kGap; ++j) {
      const float number = convert(spread[i * (count + kGap) + j]);
      if (j < count) {
        x[i * stride + j] = number == mark ? kGapMark : number;
      } else {
        EXPECT_EQ(number, mark) << "a gap was written";
      }
    }
  }
}

float Same(float x) { return x; }

std::vector<uint16_t> Keys(const RecurrenceCase& work,
                           const std::vector<float>& x) {
  return Spread<uint16_t>(
      x, work.tokens, KeyNumbers(work), work.key_stride, ToBfloat16);
}
std::vector<uint16_t> Values(const RecurrenceCase& work,
                             const std::vector<float>& x) {
  return Spread<uint16_t>(
      x, work.tokens, ValueNumbers(work), work.value_stride, ToBfloat16);
}

// Nothing if states are of the other number.
template <typename T, typename Convert>
std::vector<T> States(const RecurrenceCase& work,
                      StateNumber number,
                      StateNumber own,
                      Convert convert) {
  if (number != own) return {};
  return Spread<T>(work.state,
                   work.slot_count,
                   StateNumbers(work),
                   work.state_stride,
                   convert);
}

template <typename T>
std::span<const T> View(const std::vector<T>& x) {
  return x;
}

const __nv_bfloat16* Bfloat(const DeviceArray<uint16_t>& x) {
  return reinterpret_cast<const __nv_bfloat16*>(x.data());
}

}  // namespace

void RoundOperands(RecurrenceCase& work) {
  for (std::vector<float>* x : {&work.q, &work.k, &work.v}) {
    for (float& number : *x) {
      if (number != kGapMark) number = FromBfloat16(ToBfloat16(number));
    }
  }
  work.DeriveCorrection();
}

ChunkArrays::ChunkArrays(const RecurrenceCase& work,
                         const std::vector<uint32_t>& consumed,
                         engine::StateNumber number)
    : row_starts_(View(work.row_starts)),
      slots_(View(work.slots)),
      consumed_(View(consumed)),
      q_(View(Keys(work, work.q))),
      k_(View(Keys(work, work.k))),
      v_(View(Values(work, work.v))),
      out_(View(Values(work, work.out))),
      log2_decay_(View(work.log2_decay)),
      beta_(View(work.beta)),
      state_(View(States<float>(work, number, StateNumber::kFloat32, Same))),
      narrow_state_(View(
          States<uint16_t>(work, number, StateNumber::kBfloat16, ToBfloat16))),
      workspace_((SetArgs(work, !consumed.empty()),
                  static_cast<size_t>(engine::ChunkWorkspaceBytes(args_)))) {
  // What is not written is not a number.
  Must(cudaMemset(workspace_.data(), 0xff, workspace_.bytes()), "cudaMemset");
  args_.workspace = workspace_.data();
}

void ChunkArrays::SetArgs(const RecurrenceCase& work, bool has_consumed) {
  args_.rows = static_cast<int32_t>(work.slots.size());
  args_.heads = work.shape.heads;
  args_.key_heads = work.shape.key_heads;
  args_.key_dim = work.shape.key_dim;
  args_.value_dim = work.shape.value_dim;
  args_.row_starts = row_starts_.data();
  args_.slots = slots_.data();
  args_.tokens = work.tokens;
  if (has_consumed) args_.consumed = consumed_.data();
  args_.q = {Bfloat(q_), KeyNumbers(work) + kGap};
  args_.k = {Bfloat(k_), KeyNumbers(work) + kGap};
  args_.v = {Bfloat(v_), ValueNumbers(work) + kGap};
  args_.log2_decay = {log2_decay_.data(), work.decay_stride};
  const bool corrects = work.shape.kind == RecurrenceKind::kDelta ||
                        work.shape.kind == RecurrenceKind::kDecayed;
  if (work.decays() != work.shape.heads) {
    args_.decay = engine::DecayKind::kKey;
  }
  if (corrects) {
    args_.beta = {beta_.data(), work.gate_stride};
  }
  args_.out = reinterpret_cast<__nv_bfloat16*>(out_.data());
  args_.out_stride = ValueNumbers(work) + kGap;
  if (state_.size() > 0) {
    args_.state = state_.data();
  } else {
    args_.state_number = StateNumber::kBfloat16;
    args_.state = narrow_state_.data();
  }
  args_.state_stride = StateNumbers(work) + kGap;
}

void ChunkArrays::Take(RecurrenceCase& work) const {
  Gather(out_.Get(),
         work.tokens,
         ValueNumbers(work),
         work.value_stride,
         FromBfloat16,
         work.out);
  const auto take_states = [&](const auto& states, auto convert) {
    if (states.size() == 0) return;
    Gather(states.Get(),
           work.slot_count,
           StateNumbers(work),
           work.state_stride,
           convert,
           work.state);
  };
  take_states(state_, Same);
  take_states(narrow_state_, FromBfloat16);
}

void RunChunksOnDevice(RecurrenceCase& work,
                       const std::vector<uint32_t>& consumed,
                       StateNumber number) {
  const ChunkArrays arrays(work, consumed, number);
  ASSERT_EQ(engine::RecurrenceChunk(arrays.args(), nullptr), cudaSuccess);
  Must(cudaDeviceSynchronize(), "chunks");
  arrays.Take(work);
}

}  // namespace weir::gpu
