// SPDX-License-Identifier: Apache-2.0
//
// What stands around the chunk form in Gated DeltaNet's long rows, bf16, beside
// a copy of as many bytes. Prints JSON, name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/gpu/memory_rate.h"
#include "bench/gpu/timer.h"
#include "engine/kernels/cuda/gated_delta_prefill.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

constexpr int kRepeats = 15;
constexpr int kWidth = 4;
// Sets of arrays that take turns, so that no L2 holds what comes next.
constexpr int kSets = 3;

struct Shape {
  const char* name;
  int32_t heads;
  int32_t key_heads;
  int32_t key_dim;
  int32_t value_dim;
};

void Print(const std::string& name, double number) {
  static bool is_first = true;
  std::printf("%s\n  \"%s\": %.3f", is_first ? "{" : ",", name.c_str(), number);
  is_first = false;
}

class Bench {
 public:
  Bench(const Shape& shape, int64_t tokens)
      : shape_(shape),
        tokens_(tokens),
        keys_(int64_t{shape.key_heads} * shape.key_dim),
        values_(int64_t{shape.heads} * shape.value_dim),
        mixed_numbers_(2 * keys_ + values_),
        // Whole pieces of 16 bytes.
        columns_((mixed_numbers_ + values_ + 2 * shape.heads + 7) / 8 * 8),
        projected_(kSets * tokens * columns_),
        mixed_(kSets * tokens * mixed_numbers_),
        out_(kSets * tokens * values_),
        window_(kWidth * mixed_numbers_),
        weights_(kWidth * mixed_numbers_ + 2 * shape.heads + shape.value_dim),
        gates_(2 * tokens * shape.heads),
        starts_(2),
        slots_(1),
        consumed_(1) {
    Must(FillRandomBfloat16(projected_.data(), projected_.size(), nullptr),
         "fill");
    Must(FillRandomBfloat16(mixed_.data(), mixed_.size(), nullptr), "fill");
    Must(FillRandomBfloat16(window_.data(), window_.size(), nullptr), "fill");
    Must(FillRandom(weights_.data(), weights_.size(), nullptr), "fill");
    starts_.Set(std::vector<int32_t>{0, static_cast<int32_t>(tokens)});
    slots_.Set(std::vector<int32_t>{0});
    consumed_.Set(std::vector<uint32_t>{1000});
  }

  void Run() {
    const std::string name =
        std::string(shape_.name) + "_" + std::to_string(tokens_);
    const int64_t prepare_bytes =
        tokens_ * (4 * mixed_numbers_ + 12 * shape_.heads);
    const int64_t finish_bytes = tokens_ * 6 * values_;
    const double prepare = Time(&Bench::Prepare);
    const double finish = Time(&Bench::Finish);
    const double rate = CopyRate();
    Print("prepare_" + name + "_us", prepare);
    Print("finish_" + name + "_us", finish);
    Print("copy_" + name + "_gb_s", rate);
    Print("prepare_" + name + "_of_copy",
          static_cast<double>(prepare_bytes) / prepare / rate / 1e3);
    Print("finish_" + name + "_of_copy",
          static_cast<double>(finish_bytes) / finish / rate / 1e3);
  }

 private:
  double Time(void (Bench::*launch)(int set, cudaStream_t stream)) {
    return MedianUs(2 * kSets, kRepeats, [&](cudaStream_t stream) {
      for (int i = 0; i < 2 * kSets; ++i) (this->*launch)(i % kSets, stream);
    });
  }
  void Prepare(int set, cudaStream_t stream) {
    engine::GatedDeltaPrepareArgs args;
    args.rows = 1;
    args.tokens = tokens_;
    args.heads = shape_.heads;
    args.key_heads = shape_.key_heads;
    args.key_dim = shape_.key_dim;
    args.value_dim = shape_.value_dim;
    args.conv_width = kWidth;
    args.row_starts = starts_.data();
    args.slots = slots_.data();
    args.consumed = consumed_.data();
    args.projected = projected_.data() + set * tokens_ * columns_;
    args.projected_stride = columns_;
    args.a_column = mixed_numbers_ + values_;
    args.b_column = args.a_column + shape_.heads;
    args.conv_weight = weights_.data();
    args.log2_rate = weights_.data() + kWidth * mixed_numbers_;
    args.dt_bias = args.log2_rate + shape_.heads;
    args.window = window_.data();
    args.window_stride = kWidth * mixed_numbers_;
    args.mixed = mixed_.data() + set * tokens_ * mixed_numbers_;
    args.mixed_stride = mixed_numbers_;
    args.log2_decay = gates_.data();
    args.beta = gates_.data() + tokens_ * shape_.heads;
    Must(engine::PrepareGatedDelta(args, stream), "prepare");
  }
  void Finish(int set, cudaStream_t stream) {
    engine::GatedDeltaFinishArgs args;
    args.tokens = tokens_;
    args.rows = 1;
    args.row_starts = starts_.data();
    args.heads = shape_.heads;
    args.value_dim = shape_.value_dim;
    args.o = mixed_.data() + set * tokens_ * mixed_numbers_;
    args.o_stride = mixed_numbers_;
    args.z = projected_.data() + set * tokens_ * columns_ + mixed_numbers_;
    args.z_stride = columns_;
    args.norm_weight =
        weights_.data() + kWidth * mixed_numbers_ + 2 * shape_.heads;
    args.norm_eps = 1e-5F;
    args.out = out_.data() + set * tokens_ * values_;
    args.out_stride = values_;
    Must(engine::FinishGatedDelta(args, stream), "finish");
  }
  // Of bytes read and written.
  double CopyRate() {
    const int64_t bytes =
        std::min(mixed_.bytes(), projected_.bytes()) / kSets / 16 * 16;
    const double us = MedianUs(kSets, kRepeats, [&](cudaStream_t stream) {
      for (int set = 0; set < kSets; ++set) {
        Must(cudaMemcpyAsync(
                 reinterpret_cast<char*>(mixed_.data()) + set * bytes,
                 reinterpret_cast<char*>(projected_.data()) + set * bytes,
                 bytes,
                 cudaMemcpyDeviceToDevice,
                 stream),
             "copy");
      }
    });
    return 2.0 * static_cast<double>(bytes) / us / 1e3;
  }

  Shape shape_;
  int64_t tokens_;
  int64_t keys_;
  int64_t values_;
  int64_t mixed_numbers_;
  int64_t columns_;
  DeviceArray<uint16_t> projected_;
  DeviceArray<uint16_t> mixed_;
  DeviceArray<uint16_t> out_;
  DeviceArray<uint16_t> window_;
  DeviceArray<float> weights_;
  DeviceArray<float> gates_;
  DeviceArray<int32_t> starts_;
  DeviceArray<int32_t> slots_;
  DeviceArray<uint32_t> consumed_;
};

}  // namespace
}  // namespace weir::gpu

int main() {
  constexpr weir::gpu::Shape kShapes[] = {{"6x256x512", 6, 6, 256, 512},
                                          {"16_32x128x128", 32, 16, 128, 128}};
  for (const weir::gpu::Shape& shape : kShapes) {
    for (const int64_t tokens : {512, 2048, 8192}) {
      weir::gpu::Bench(shape, tokens).Run();
    }
  }
  std::printf("\n}\n");
}
