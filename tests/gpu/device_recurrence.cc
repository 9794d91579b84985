// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/device_recurrence.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::DecodeArgs;
using engine::RecurrenceArgs;
using engine::RecurrenceCase;
using engine::StateNumber;
using engine::TokenRows;

// The slots' states without gaps, and what is between them in the slab.
constexpr int64_t kSlabGap = 8;

int64_t StateNumbers(const RecurrenceCase& work) {
  return int64_t{work.shape.heads} * work.shape.value_dim * work.shape.key_dim;
}

// A multiple of 16 bytes, whatever the number.
int64_t SlabStride(const RecurrenceCase& work) {
  return (StateNumbers(work) + kSlabGap + 7) / 8 * 8;
}

template <typename Number, typename Convert>
std::vector<Number> Slab(const RecurrenceCase& work, Convert convert) {
  const int64_t stride = SlabStride(work);
  std::vector<Number> slab(static_cast<size_t>(work.slot_count * stride),
                           convert(engine::kGapMark));
  for (int64_t slot = 0; slot < work.slot_count; ++slot) {
    for (int64_t i = 0; i < StateNumbers(work); ++i) {
      slab[slot * stride + i] =
          convert(work.state[slot * work.state_stride + i]);
    }
  }
  return slab;
}

template <typename Number, typename Convert>
void TakeSlab(const std::vector<Number>& slab,
              Convert convert,
              RecurrenceCase& work) {
  const int64_t stride = SlabStride(work);
  for (int64_t slot = 0; slot < work.slot_count; ++slot) {
    for (int64_t i = 0; i < stride; ++i) {
      const float x = convert(slab[slot * stride + i]);
      if (i < StateNumbers(work)) {
        work.state[slot * work.state_stride + i] = x;
      } else {
        EXPECT_EQ(x, convert(slab[StateNumbers(work)])) << "a gap was written";
      }
    }
  }
}

// The case's arrays on the device.
class Arrays {
 public:
  TokenRows Rows(const TokenRows& rows, const std::vector<float>& host) {
    if (rows.data == nullptr) return {};
    return {Floats(host), rows.stride};
  }
  const float* Floats(const std::vector<float>& host) {
    floats_.push_back(std::make_unique<DeviceArray<float>>(host));
    return floats_.back()->data();
  }
  const int32_t* Integers(const std::vector<int32_t>& host) {
    integers_.push_back(std::make_unique<DeviceArray<int32_t>>(host));
    return integers_.back()->data();
  }

 private:
  std::vector<std::unique_ptr<DeviceArray<float>>> floats_;
  std::vector<std::unique_ptr<DeviceArray<int32_t>>> integers_;
};

// The sums' arrays on the device, in and out.
class SumArrays {
 public:
  SumArrays(DeviceSums& host, DecodeArgs& args) {
    args.step.rest = InOut(host.rest);
    args.step.rest_stride = host.rest_stride;
    args.sums = {.keys = InOut(host.keys),
                 .keys_stride = host.keys_stride,
                 .eps = host.eps,
                 .dots = InOut(host.dots),
                 .floor = host.floor,
                 .query_sums = InOut(host.query_sums),
                 .values = InOut(host.values),
                 .values_stride = host.values_stride,
                 .counts = InOut(host.counts),
                 .counts_stride = host.counts_stride};
  }
  void Take() {
    for (Held& held : arrays_) *held.host = held.device->Get();
  }

 private:
  struct Held {
    std::vector<float>* host;
    std::unique_ptr<DeviceArray<float>> device;
  };
  float* InOut(std::vector<float>& host) {
    if (host.empty()) return nullptr;
    arrays_.push_back({&host, std::make_unique<DeviceArray<float>>(host)});
    return arrays_.back().device->data();
  }

  std::vector<Held> arrays_;
};

template <typename Number, typename ToNumber, typename FromNumber>
void RunWith(RecurrenceCase& work,
             const DeviceForm& form,
             DeviceSums* sums,
             ToNumber to_number,
             FromNumber from_number) {
  const RecurrenceArgs host = work.Args();
  Arrays arrays;
  DecodeArgs args;
  args.step = host;
  args.step.row_starts = arrays.Integers(work.row_starts);
  args.step.slots = arrays.Integers(work.slots);
  args.step.q = arrays.Rows(host.q, work.q);
  args.step.k = arrays.Rows(host.k, work.k);
  args.step.v = arrays.Rows(host.v, work.v);
  args.step.log2_decay = arrays.Rows(host.log2_decay, work.log2_decay);
  args.step.beta = arrays.Rows(host.beta, work.beta);
  args.step.a = arrays.Rows(host.a, work.a);
  args.step.b = arrays.Rows(host.b, work.b);
  if (host.bonus != nullptr) args.step.bonus = arrays.Floats(work.bonus);
  DeviceArray<float> out{std::span<const float>(work.out)};
  args.step.out = out.data();
  const std::vector<Number> before = Slab<Number>(work, to_number);
  DeviceArray<Number> state{std::span<const Number>(before)};
  args.step.state = nullptr;
  args.step.state_stride = SlabStride(work);
  args.state = state.data();
  args.number = form.number;
  args.rounding_seed = form.rounding_seed;
  std::unique_ptr<DeviceArray<uint32_t>> consumed;
  if (!form.consumed.empty()) {
    consumed = std::make_unique<DeviceArray<uint32_t>>(
        std::span<const uint32_t>(form.consumed));
    args.consumed = consumed->data();
  }
  std::unique_ptr<SumArrays> sum_arrays;
  if (sums != nullptr) sum_arrays = std::make_unique<SumArrays>(*sums, args);
  ASSERT_EQ(engine::RecurrenceDecode(args, nullptr), cudaSuccess);
  Must(cudaDeviceSynchronize(), "decode");
  if (sums != nullptr) sum_arrays->Take();
  work.out = out.Get();
  TakeSlab(state.Get(), from_number, work);
}

}  // namespace

float FromBfloat16(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &word, sizeof(x));
  return x;
}

uint16_t ToBfloat16(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof(word));
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

void RunOnDevice(RecurrenceCase& work,
                 const DeviceForm& form,
                 DeviceSums* sums) {
  if (form.number == StateNumber::kFloat32) {
    const auto same = [](float x) { return x; };
    RunWith<float>(work, form, sums, same, same);
  } else {
    RunWith<uint16_t>(work, form, sums, ToBfloat16, FromBfloat16);
  }
}

}  // namespace weir::gpu
