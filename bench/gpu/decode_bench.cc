// SPDX-License-Identifier: Apache-2.0
//
// The decode kernels beside a kernel that copies the same bytes in place, in
// one run on one card: Gated DeltaNet's mixer, bf16 inputs, random slots of a
// pool that no L2 holds; 16 key and 32 value heads of 128 x 128, and 6 heads of
// 256 x 512 ("wide"). Prints JSON, name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu/figures.h"
#include "bench/gpu/memory_rate.h"
#include "bench/gpu/timer.h"
#include "engine/kernels/cuda/gated_delta_decode.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::GatedDeltaDecodeArgs;
using engine::GatedDeltaForm;
using engine::StateNumber;

constexpr int32_t kWidth = 4;
constexpr int32_t kTokens = 8192;  // with inputs of their own
constexpr int kRepeats = 15;
// Of a state, to a block of the copy.
constexpr int64_t kPieceNumbers = 16384;

struct Shape {
  int32_t heads;
  int32_t key_heads;
  int32_t key_dim;
  int32_t value_dim;
  int32_t slots;

  int64_t values() const { return int64_t{heads} * value_dim; }
  int64_t mixed() const { return 2 * key_heads * key_dim + values(); }
  int64_t columns() const { return mixed() + values() + 2 * heads; }
  int64_t state_numbers() const { return values() * key_dim; }
  // What the mixer must move for a row of `tokens`.
  int64_t RowBytes(StateNumber number, int tokens) const {
    const int64_t state =
        state_numbers() * (number == StateNumber::kFloat32 ? 4 : 2);
    const int64_t window =
        (kWidth - 1 + std::min(tokens, kWidth)) * mixed() * 2;
    return 2 * state + window + tokens * (columns() + values()) * 2;
  }
};

constexpr Shape kNarrow = {32, 16, 128, 128, 4096};  // 8 GiB of fp32 states
constexpr Shape kWide = {6, 6, 256, 512, 2048};      // 6 GiB

constexpr std::pair<const char*, GatedDeltaForm> kForms[] = {
    {"_spread_us", GatedDeltaForm::kSpread},
    {"_whole_us", GatedDeltaForm::kWhole},
    {"_stream_us", GatedDeltaForm::kStream},
};

class Bench {
 public:
  explicit Bench(const Shape& shape)
      : shape_(shape),
        state_(shape_.slots * shape_.state_numbers()),
        window_(shape_.slots * kWidth * shape_.mixed()),
        projected_(kTokens * shape_.columns()),
        out_(kTokens * shape_.values()),
        weights_(kWidth * shape_.mixed() + 2 * shape_.heads + shape_.value_dim),
        consumed_(shape_.slots),
        slots_(shape_.slots),
        starts_(shape_.slots + 1) {
    Must(FillRandom(state_.data(), state_.size(), nullptr), "fill");
    Must(FillRandom(weights_.data(), weights_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(window_.data(), window_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(projected_.data(), projected_.size(), nullptr),
         "fill");
    const std::vector<float> rates(shape_.heads, -0.05F);
    Must(cudaMemcpy(weights_.data() + kWidth * shape_.mixed(),
                    rates.data(),
                    shape_.heads * sizeof(float),
                    cudaMemcpyHostToDevice),
         "rates");
    consumed_.Set(std::vector<uint32_t>(shape_.slots, 1000));
    std::vector<int32_t> order(shape_.slots);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    slots_.Set(order);
  }

  // Microseconds of a launch over `rows` rows of `tokens` tokens.
  double Mixer(int32_t rows, int tokens, StateNumber number) {
    std::vector<int32_t> starts(shape_.slots + 1);
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
    args.pieces_of_slot =
        static_cast<int32_t>(shape_.state_numbers() / kPieceNumbers);
    args.piece_bytes = row_bytes / 2 / args.pieces_of_slot / 16 * 16;
    args.slot_bytes = args.piece_bytes * args.pieces_of_slot;
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
  int Launches(int32_t rows) const {
    return std::min(shape_.slots / rows, 128);
  }

  GatedDeltaDecodeArgs Args(int32_t first,
                            int32_t rows,
                            int tokens,
                            StateNumber number) {
    GatedDeltaDecodeArgs args;
    args.rows = rows;
    args.heads = shape_.heads;
    args.key_heads = shape_.key_heads;
    args.key_dim = shape_.key_dim;
    args.value_dim = shape_.value_dim;
    args.conv_width = kWidth;
    args.row_tokens_max = tokens;
    args.row_tokens_min = tokens;
    args.row_starts = starts_.data();
    args.slots = slots_.data() + first;
    args.consumed = consumed_.data() + first;
    // Rows of many tokens begin again where there are no more.
    const int64_t token = int64_t{first} * tokens % kTokens;
    args.projected = projected_.data() + token * shape_.columns();
    args.projected_stride = shape_.columns();
    args.z_column = shape_.mixed();
    args.a_column = shape_.mixed() + shape_.values();
    args.b_column = shape_.mixed() + shape_.values() + shape_.heads;
    args.conv_weight = weights_.data();
    args.log2_rate = weights_.data() + kWidth * shape_.mixed();
    args.dt_bias = args.log2_rate + shape_.heads;
    args.norm_weight = args.dt_bias + shape_.heads;
    args.norm_eps = 1e-5F;
    args.out = out_.data() + token * shape_.values();
    args.out_stride = shape_.values();
    args.state_number = number;
    args.state = state_.data();
    args.state_stride = shape_.state_numbers();
    args.window = window_.data();
    args.window_stride = kWidth * shape_.mixed();
    args.form = form;
    return args;
  }

  const Shape shape_;
  DeviceArray<float> state_;
  DeviceArray<uint16_t> window_, projected_, out_;
  DeviceArray<float> weights_;
  DeviceArray<uint32_t> consumed_;
  DeviceArray<int32_t> slots_, starts_;
};

// One token a row, in each of `forms`, and in the one that is chosen.
void RunShares(Bench& bench,
               const Shape& shape,
               const std::string& kind,
               StateNumber number,
               int32_t rows,
               std::span<const std::pair<const char*, GatedDeltaForm>> forms,
               Figures& found) {
  const std::string name =
      (number == StateNumber::kFloat32 ? "decode_fp32_" : "decode_bf16_") +
      kind + std::to_string(rows * shape.heads);
  for (const auto& [form_name, form] : forms) {
    bench.form = form;
    found[name + form_name] = bench.Mixer(rows, 1, number);
  }
  bench.form = GatedDeltaForm::kByStates;
  const int64_t bytes = shape.RowBytes(number, 1);
  const double us = bench.Mixer(rows, 1, number);
  const double copy_us = bench.Copy(rows, bytes);
  found[name + "_us"] = us;
  found[name + "_tb_s"] = rows * bytes / us / 1e6;
  found[name + "_copy_us"] = copy_us;
  found[name + "_share_of_copy"] = copy_us / us;
}

void RunAppends(Bench& bench, Figures& found) {
  for (const int32_t rows : {16, 128, 256}) {
    const double one = bench.Mixer(rows, 1, StateNumber::kFloat32);
    for (const int tokens : {2, 4, 8, 16, 32}) {
      const std::string name = "append" + std::to_string(tokens) + "_" +
                               std::to_string(rows * kNarrow.heads);
      const double us = bench.Mixer(rows, tokens, StateNumber::kFloat32);
      found[name + "_us"] = us;
      found[name + "_tb_s"] =
          rows * kNarrow.RowBytes(StateNumber::kFloat32, tokens) / us / 1e6;
      found[name + "_cost_ratio"] = us / one;
    }
  }
}

void Run() {
  Figures found;
  constexpr StateNumber kNumbers[] = {StateNumber::kFloat32,
                                      StateNumber::kBfloat16};
  {
    Bench bench(kNarrow);
    found["memcpy_tb_s"] = bench.MemcpyRate() / 1e12;
    for (const StateNumber number : kNumbers) {
      for (const int32_t rows : {1, 4, 16, 64, 256}) {
        RunShares(bench, kNarrow, "", number, rows, kForms, found);
      }
    }
    RunAppends(bench, found);
  }
  Bench wide(kWide);
  for (const StateNumber number : kNumbers) {
    for (const int32_t rows : {1, 8, 32, 128}) {
      RunShares(wide, kWide, "wide_", number, rows, {}, found);
    }
  }
  found["mixer_b1_us"] = found["decode_fp32_32_us"];
  found["decode_fp32_share_of_copy"] = found["decode_fp32_2048_share_of_copy"];
  found["decode_bf16_share_of_copy"] = found["decode_bf16_2048_share_of_copy"];
  found["append16_cost_ratio"] = found["append16_4096_cost_ratio"];
  Print(found);
}

}  // namespace
}  // namespace weir::gpu

int main() {
  weir::gpu::Run();
  return 0;
}
