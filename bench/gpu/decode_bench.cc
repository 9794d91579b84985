// SPDX-License-Identifier: Apache-2.0
//
// The decode kernels beside a kernel that copies the same bytes in place, in
// one run on one card: Gated DeltaNet's mixer, 16 key and 32 value heads of
// 128 x 128, bf16 inputs, random slots of a pool that no L2 holds. Prints JSON,
// name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu/memory_rate.h"
#include "bench/gpu/timer.h"
#include "engine/kernels/cuda/gated_delta_decode.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::GatedDeltaDecodeArgs;
using engine::GatedDeltaForm;
using engine::StateNumber;

constexpr int32_t kHeads = 32;
constexpr int32_t kKeyHeads = 16;
constexpr int32_t kDim = 128;
constexpr int32_t kWidth = 4;
constexpr int64_t kMixed = (2 * kKeyHeads + kHeads) * kDim;
constexpr int64_t kValues = int64_t{kHeads} * kDim;
constexpr int64_t kColumns = kMixed + kValues + 2 * kHeads;
constexpr int64_t kStateNumbers = kValues * kDim;
constexpr int32_t kSlots = 4096;   // 8 GiB of fp32 states
constexpr int32_t kTokens = 8192;  // with inputs of their own
constexpr int kRepeats = 15;

constexpr std::pair<const char*, GatedDeltaForm> kForms[] = {
    {"_spread_us", GatedDeltaForm::kSpread},
    {"_whole_us", GatedDeltaForm::kWhole},
    {"_stream_us", GatedDeltaForm::kStream},
};

// What the mixer must move for a row of `tokens`.
int64_t RowBytes(StateNumber number, int tokens) {
  const int64_t state =
      kStateNumbers * (number == StateNumber::kFloat32 ? 4 : 2);
  const int64_t window = (kWidth - 1 + std::min(tokens, kWidth)) * kMixed * 2;
  return 2 * state + window + tokens * (kColumns + kValues) * 2;
}

class Bench {
 public:
  Bench()
      : state_(kSlots * kStateNumbers),
        window_(kSlots * kWidth * kMixed),
        projected_(kTokens * kColumns),
        out_(kTokens * kValues),
        weights_(kWidth * kMixed + 2 * kHeads + kDim),
        consumed_(kSlots),
        slots_(kSlots),
        starts_(kSlots + 1) {
    Must(FillRandom(state_.data(), state_.size(), nullptr), "fill");
    Must(FillRandom(weights_.data(), weights_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(window_.data(), window_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(projected_.data(), projected_.size(), nullptr),
         "fill");
    const std::vector<float> rates(kHeads, -0.05F);
    Must(cudaMemcpy(weights_.data() + kWidth * kMixed,
                    rates.data(),
                    kHeads * sizeof(float),
                    cudaMemcpyHostToDevice),
         "rates");
    consumed_.Set(std::vector<uint32_t>(kSlots, 1000));
    std::vector<int32_t> order(kSlots);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    slots_.Set(order);
  }

  // Microseconds of a launch over `rows` rows of `tokens` tokens.
  double Mixer(int32_t rows, int tokens, StateNumber number) {
    std::vector<int32_t> starts(kSlots + 1);
    for (size_t i = 0; i < starts.size(); ++i) {
      starts[i] = static_cast<int32_t>(i) * tokens;
    }
    starts_.Set(starts);
    const int launches = Launches(rows);
    return MedianUs(launches, kRepeats, [&](cudaStream_t stream) {
      for (int i = 0; i < launches; ++i) {
        Must(GatedDeltaDecode(Args(i * rows, rows, tokens, number), stream),
             "decode");
      }
    });
  }

  // Of the copy of as many bytes in place.
  double Copy(int32_t rows, int64_t row_bytes) {
    CopyArgs args;
    args.base = state_.data();
    args.rows = rows;
    args.pieces_of_slot = kHeads;
    args.piece_bytes = row_bytes / 2 / kHeads / 16 * 16;
    args.slot_bytes = args.piece_bytes * kHeads;
    // The slots' pieces lie closer or wider than the states; so fewer fit.
    const auto fit = static_cast<int32_t>(static_cast<int64_t>(state_.bytes()) /
                                          args.slot_bytes);
    std::vector<int32_t> order(fit);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    DeviceArray<int32_t> slots{std::span<const int32_t>(order)};
    const int launches = std::min(Launches(rows), fit / rows);
    return MedianUs(launches, kRepeats, [&](cudaStream_t stream) {
      for (int i = 0; i < launches; ++i) {
        args.slots = slots.data() + i * rows;
        Must(CopyInPlace(args, stream), "copy");
      }
    });
  }

  // Bytes a second, read and written, of cudaMemcpy over 1 GiB.
  double MemcpyRate() {
    constexpr size_t kBytes = size_t{1} << 30;
    auto* base = reinterpret_cast<char*>(state_.data());
    const double us = MedianUs(1, kRepeats, [&](cudaStream_t stream) {
      Must(cudaMemcpyAsync(base + 2 * kBytes,
                           base,
                           kBytes,
                           cudaMemcpyDeviceToDevice,
                           stream),
           "copy");
    });
    return 2.0 * kBytes / us * 1e6;
  }

  GatedDeltaForm form = GatedDeltaForm::kByStates;

 private:
  static int Launches(int32_t rows) { return std::min(kSlots / rows, 128); }

  GatedDeltaDecodeArgs Args(int32_t first,
                            int32_t rows,
                            int tokens,
                            StateNumber number) {
    GatedDeltaDecodeArgs args;
    args.rows = rows;
    args.heads = kHeads;
    args.key_heads = kKeyHeads;
    args.key_dim = kDim;
    args.value_dim = kDim;
    args.conv_width = kWidth;
    args.row_tokens_max = tokens;
    args.row_tokens_min = tokens;
    args.row_starts = starts_.data();
    args.slots = slots_.data() + first;
    args.consumed = consumed_.data() + first;
    // Rows of many tokens begin again where there are no more.
    const int64_t token = int64_t{first} * tokens % kTokens;
    args.projected = projected_.data() + token * kColumns;
    args.projected_stride = kColumns;
    args.z_column = kMixed;
    args.a_column = kMixed + kValues;
    args.b_column = kMixed + kValues + kHeads;
    args.conv_weight = weights_.data();
    args.log2_rate = weights_.data() + kWidth * kMixed;
    args.dt_bias = args.log2_rate + kHeads;
    args.norm_weight = args.dt_bias + kHeads;
    args.norm_eps = 1e-5F;
    args.out = out_.data() + token * kValues;
    args.out_stride = kValues;
    args.state_number = number;
    args.state = state_.data();
    args.state_stride = kStateNumbers;
    args.window = window_.data();
    args.window_stride = kWidth * kMixed;
    args.form = form;
    return args;
  }

  DeviceArray<float> state_;
  DeviceArray<uint16_t> window_, projected_, out_;
  DeviceArray<float> weights_;
  DeviceArray<uint32_t> consumed_;
  DeviceArray<int32_t> slots_, starts_;
};

void Run() {
  Bench bench;
  std::map<std::string, double> found;
  found["memcpy_tb_s"] = bench.MemcpyRate() / 1e12;
  for (const StateNumber number :
       {StateNumber::kFloat32, StateNumber::kBfloat16}) {
    const std::string name =
        number == StateNumber::kFloat32 ? "decode_fp32" : "decode_bf16";
    for (const int32_t rows : {1, 4, 16, 64, 256}) {
      for (const auto& [form_name, form] : kForms) {
        bench.form = form;
        found[name + "_" + std::to_string(rows * kHeads) + form_name] =
            bench.Mixer(rows, 1, number);
      }
      bench.form = GatedDeltaForm::kByStates;
      const std::string states = "_" + std::to_string(rows * kHeads);
      const int64_t bytes = RowBytes(number, 1);
      const double us = bench.Mixer(rows, 1, number);
      const double copy_us = bench.Copy(rows, bytes);
      found[name + states + "_us"] = us;
      found[name + states + "_tb_s"] = rows * bytes / us / 1e6;
      found[name + states + "_copy_us"] = copy_us;
      found[name + states + "_share_of_copy"] = copy_us / us;
    }
  }
  found["mixer_b1_us"] = found["decode_fp32_32_us"];
  found["decode_fp32_share_of_copy"] = found["decode_fp32_2048_share_of_copy"];
  found["decode_bf16_share_of_copy"] = found["decode_bf16_2048_share_of_copy"];
  for (const int32_t rows : {16, 128, 256}) {
    const double one = bench.Mixer(rows, 1, StateNumber::kFloat32);
    for (const int tokens : {2, 4, 8, 16, 32}) {
      const std::string name = "append" + std::to_string(tokens) + "_" +
                               std::to_string(rows * kHeads);
      const double us = bench.Mixer(rows, tokens, StateNumber::kFloat32);
      found[name + "_us"] = us;
      found[name + "_tb_s"] =
          rows * RowBytes(StateNumber::kFloat32, tokens) / us / 1e6;
      found[name + "_cost_ratio"] = us / one;
    }
  }
  found["append16_cost_ratio"] = found["append16_4096_cost_ratio"];
  std::printf("{");
  const char* separator = "\n";
  for (const auto& [name, number] : found) {
    std::printf("%s  \"%s\": %.4g", separator, name.c_str(), number);
    separator = ",\n";
  }
  std::printf("\n}\n");
}

}  // namespace
}  // namespace weir::gpu

int main() {
  weir::gpu::Run();
  return 0;
}
