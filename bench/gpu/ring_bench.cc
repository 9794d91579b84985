// SPDX-License-Identifier: Apache-2.0
//
// The ring form of Gated DeltaNet's decode beside the form that writes the
// state in every step, in one run on one card: bf16 inputs, fp32 states in
// random slots of a pool that no L2 holds, rows spread over all places of their
// rings, folds among them. Prints JSON, name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/gpu/figures.h"
#include "bench/gpu/memory_rate.h"
#include "bench/gpu/timer.h"
#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/gated_delta_ring.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::GatedDeltaDecodeArgs;
using engine::GatedDeltaRingArgs;
using engine::GatedDeltaRingForm;
using engine::kRingHeld;
using engine::kRingSteps;

constexpr int32_t kWidth = 4;
constexpr int32_t kTokens = 1024;  // with inputs of their own
// Two rounds of the rings, so that each slot is folded twice.
constexpr int kRepeats = 2 * kRingSteps;

struct Heads {
  int32_t heads = 32;
  int32_t key_heads = 16;
  int32_t key_dim = 128;
  int32_t value_dim = 128;
  int32_t slots = 4096;

  int64_t keys() const { return int64_t{key_heads} * key_dim; }
  int64_t values() const { return int64_t{heads} * value_dim; }
  int64_t mixed() const { return 2 * keys() + values(); }
  // Whole pieces of 16 bytes, as a product writes them.
  int64_t columns() const {
    return (mixed() + values() + 2 * heads + 7) / 8 * 8;
  }
  int64_t state_numbers() const { return values() * key_dim; }
  int64_t ring_numbers() const {
    GatedDeltaDecodeArgs args;
    args.heads = heads;
    args.key_heads = key_heads;
    args.key_dim = key_dim;
    args.value_dim = value_dim;
    return GatedDeltaRingNumbers(args);
  }
  // What a step must move for a row: by the ring, in the mean of its places.
  double WriteBytes() const { return 8.0 * state_numbers() + TokenBytes(); }
  double RingBytes() const {
    const double entry = 4.0 * (keys() + values() + heads);
    return 4.0 * state_numbers() * (1 + 1.0 / kRingSteps) +
           entry * kRingHeld * (0.5 + 1.0 / kRingSteps) + TokenBytes();
  }

 private:
  double TokenBytes() const {
    return 2.0 * (kWidth * mixed() + columns() + values());
  }
};

class Bench {
 public:
  explicit Bench(const Heads& of)
      : of_(of),
        state_(of.slots * of.state_numbers()),
        ring_(of.slots * of.ring_numbers()),
        window_(of.slots * kWidth * of.mixed()),
        projected_(kTokens * of.columns()),
        out_(kTokens * of.values()),
        weights_(kWidth * of.mixed() + 2 * of.heads + of.value_dim),
        consumed_(of.slots),
        turns_(2),
        slots_(of.slots) {
    turns_.Set(std::vector<uint32_t>{0, 0});
    Must(FillRandom(state_.data(), state_.size(), nullptr), "fill");
    Must(FillRandom(ring_.data(), ring_.size(), nullptr), "fill");
    Must(FillRandom(weights_.data(), weights_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(window_.data(), window_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(projected_.data(), projected_.size(), nullptr),
         "fill");
    const std::vector<float> rates(of.heads, -0.05F);
    Must(cudaMemcpy(weights_.data() + kWidth * of.mixed(),
                    rates.data(),
                    rates.size() * sizeof(float),
                    cudaMemcpyHostToDevice),
         "rates");
    consumed_.Set(std::vector<uint32_t>(of.slots, 1000));
    order_.resize(of.slots);
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(1));
    slots_.Set(order_);
    SpreadRings();
  }

  // Microseconds of a step of so many rows.
  double Write(int32_t rows) {
    return Median(rows, [&](const GatedDeltaRingArgs& args, cudaStream_t on) {
      Must(GatedDeltaDecode(args.step, on), "decode");
    });
  }
  double Ring(int32_t rows,
              GatedDeltaRingForm form = GatedDeltaRingForm::kByStates,
              bool with_turns = true) {
    return Median(rows, [&](GatedDeltaRingArgs args, cudaStream_t on) {
      args.form = form;
      if (!with_turns) args.turns = nullptr;
      Must(GatedDeltaRingDecode(args, on), "decode by the ring");
    });
  }

 private:
  // Neighbouring rows are at places of their own.
  void SpreadRings() {
    const size_t marks = of_.heads * kRingSteps;
    std::vector<float> all(of_.slots * marks, 0.95F);
    for (int32_t i = 0; i < of_.slots; ++i) {
      for (int32_t h = 0; h < of_.heads; ++h) {
        all[order_[i] * marks + h * kRingSteps + kRingHeld] =
            std::bit_cast<float>(i * 7 % kRingSteps);
      }
    }
    Must(cudaMemcpy2D(ring_.data(),
                      of_.ring_numbers() * sizeof(float),
                      all.data(),
                      marks * sizeof(float),
                      marks * sizeof(float),
                      of_.slots,
                      cudaMemcpyHostToDevice),
         "marks");
  }

  template <typename Step>
  double Median(int32_t rows, Step step) {
    const int launches = std::min(of_.slots / rows, 128);
    return MedianUs(launches, kRepeats, [&](cudaStream_t stream) {
      for (int i = 0; i < launches; ++i) step(Args(i * rows, rows), stream);
    });
  }

  GatedDeltaRingArgs Args(int32_t first, int32_t rows) {
    GatedDeltaRingArgs all;
    GatedDeltaDecodeArgs& args = all.step;
    args.rows = rows;
    args.heads = of_.heads;
    args.key_heads = of_.key_heads;
    args.key_dim = of_.key_dim;
    args.value_dim = of_.value_dim;
    args.conv_width = kWidth;
    args.slots = slots_.data() + first;
    args.consumed = consumed_.data() + first;
    // Tokens begin again where there are no more.
    const int64_t token = first % kTokens;
    args.projected = projected_.data() + token * of_.columns();
    args.projected_stride = of_.columns();
    args.z_column = of_.mixed();
    args.a_column = of_.mixed() + of_.values();
    args.b_column = args.a_column + of_.heads;
    args.conv_weight = weights_.data();
    args.log2_rate = weights_.data() + kWidth * of_.mixed();
    args.dt_bias = args.log2_rate + of_.heads;
    args.norm_weight = args.dt_bias + of_.heads;
    args.norm_eps = 1e-5F;
    args.out = out_.data() + token * of_.values();
    args.out_stride = of_.values();
    args.state = state_.data();
    args.state_stride = of_.state_numbers();
    args.window = window_.data();
    args.window_stride = kWidth * of_.mixed();
    all.ring = ring_.data();
    all.ring_stride = of_.ring_numbers();
    all.turns = turns_.data();
    return all;
  }

  const Heads of_;
  DeviceArray<float> state_, ring_;
  DeviceArray<uint16_t> window_, projected_, out_;
  DeviceArray<float> weights_;
  DeviceArray<uint32_t> consumed_, turns_;
  DeviceArray<int32_t> slots_;
  std::vector<int32_t> order_;
};

// Returns the speed-up, and leaves all in `found`.
double Compare(const Heads& of,
               int32_t rows,
               const std::string& name,
               Bench& bench,
               Figures& found) {
  const double write = bench.Write(rows);
  const double ring = bench.Ring(rows);
  found[name + "_write_us"] = write;
  found[name + "_ring_us"] = ring;
  // What the choice is between; the stream also with shares of even sizes.
  found[name + "_blocks_us"] = bench.Ring(rows, GatedDeltaRingForm::kBlocks);
  found[name + "_stream_us"] = bench.Ring(rows, GatedDeltaRingForm::kStream);
  found[name + "_even_us"] =
      bench.Ring(rows, GatedDeltaRingForm::kStream, false);
  found[name + "_ring_tb_s"] = rows * of.RingBytes() / ring / 1e6;
  found[name + "_speedup"] = write / ring;
  return write / ring;
}

void Run() {
  Figures found;
  const Heads small;
  {
    Bench bench(small);
    double slowest = 1e9;
    for (const int32_t rows : {1, 8, 32, 64, 128, 256, 512}) {
      const double times = Compare(
          small, rows, "ring_fp32_" + std::to_string(rows), bench, found);
      if (rows >= 128) slowest = std::min(slowest, times);
    }
    found["ring_speedup_fp32"] = slowest;
    found["ring_bound_fp32"] = small.WriteBytes() / small.RingBytes();
  }
  const Heads large = {6, 6, 256, 512, 2048};
  Bench bench(large);
  for (const int32_t rows : {1, 8, 32, 64, 128, 256, 512}) {
    Compare(large,
            rows,
            "ring_6x256x512_fp32_" + std::to_string(rows),
            bench,
            found);
  }
  Print(found);
}

}  // namespace
}  // namespace weir::gpu

int main() {
  weir::gpu::Run();
  return 0;
}
