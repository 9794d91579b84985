// SPDX-License-Identifier: Apache-2.0
//
// The products of few tokens: ours and cuBLASLt's, beside the rate at which
// the card reads and writes. Prints JSON, name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

#include "bench/gpu/memory_rate.h"
#include "bench/gpu/timer.h"
#include "engine/device/products.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::ProductArgs;
using engine::Products;
using engine::ProductSource;
using engine::ProductTarget;

constexpr int kRepeats = 9;
// Weights that take turns: several times the L2 cache.
constexpr int64_t kWeightBytes = int64_t{1} << 30;

constexpr int64_t kFewTokens = 64;
constexpr int64_t kManyRepeats = 8;  // of a product of many

struct Shape {
  const char* name;
  int32_t inputs;
  int32_t outputs;
  ProductSource source;
  ProductTarget target;
};

// A layer of the model of 1.57 B, and its head.
constexpr Shape kShapes[] = {
    {"qkv", 2048, 9232, ProductSource::kNorm, ProductTarget::kRows},
    {"out", 3072, 2048, ProductSource::kRows, ProductTarget::kAdd},
    {"gate_up", 2048, 11264, ProductSource::kNorm, ProductTarget::kSilu},
    {"down", 5632, 2048, ProductSource::kRows, ProductTarget::kAdd},
    {"head", 2048, 32000, ProductSource::kRows, ProductTarget::kFloat},
};

void Print(const std::string& name, double number) {
  static bool is_first = true;
  std::printf("%s\n  \"%s\": %.3f", is_first ? "{" : ",", name.c_str(), number);
  is_first = false;
}

class Bench {
 public:
  Bench()
      : weights_(kWeightBytes),
        x_(size_t{1} << 27),
        y_(size_t{1} << 31),
        norm_(8192),
        products_(*Products::Create(engine::StateNumber::kBfloat16)) {
    Must(FillRandomBfloat16(weights_.data(), kWeightBytes / 2, nullptr),
         "fill");
    Must(FillRandomBfloat16(x_.data(), x_.size() / 2, nullptr), "fill");
    Must(FillRandom(norm_.data(), 8192, nullptr), "fill");
  }

  double Us(const Shape& shape, int64_t tokens, bool ours) {
    const int64_t bytes = int64_t{2} * shape.inputs * shape.outputs;
    const int64_t count =
        std::min(kWeightBytes / bytes,
                 tokens > kFewTokens ? kManyRepeats : kWeightBytes);
    return MedianUs(
        static_cast<int>(count), kRepeats, [&](cudaStream_t stream) {
          for (int64_t i = 0; i < count; ++i) {
            ProductArgs args = {.tokens = tokens,
                                .inputs = shape.inputs,
                                .outputs = shape.outputs,
                                .weight = weights_.data() + i * bytes,
                                .x = x_.data(),
                                .x_stride = shape.inputs,
                                .target = shape.target,
                                .y = y_.data(),
                                .y_stride = shape.outputs};
            if (ours) {
              args.source = shape.source;
              args.norm = {
                  .width = shape.inputs, .weight = norm_.data(), .eps = 1e-6F};
              Must(engine::SmallProduct(args, stream), "a small product");
              continue;
            }
            if (args.target == ProductTarget::kSilu) {
              args.target = ProductTarget::kRows;
            }
            if (!products_->MultiplyByLibrary(args, stream).ok()) {
              std::abort();
            }
          }
        });
  }

 private:
  DeviceArray<std::byte> weights_;
  DeviceArray<std::byte> x_;
  DeviceArray<std::byte> y_;
  DeviceArray<float> norm_;
  std::unique_ptr<Products> products_;
};

int Main() {
  Bench bench;
  for (const Shape& shape : kShapes) {
    const double bytes = 2.0 * shape.inputs * shape.outputs;
    for (const int64_t tokens : {1, 2, 4, 8, 16}) {
      const std::string name = std::string("product_") + shape.name + "_" +
                               std::to_string(tokens) + "_";
      if (tokens <= engine::kSmallProductTokensMax) {
        const double us = bench.Us(shape, tokens, true);
        Print(name + "us", us);
        Print(name + "tb_s", bytes / us / 1e6);
      }
      Print(name + "cublaslt_us", bench.Us(shape, tokens, false));
    }
  }
  // Many tokens: the share of the card's rate of products.
  constexpr int64_t kMany = 8192;
  for (const Shape& shape : kShapes) {
    const double us = bench.Us(shape, kMany, false);
    Print(std::string("product_") + shape.name + "_8192_tflop_s",
          2.0 * kMany * shape.inputs * shape.outputs / us / 1e6);
  }
  std::printf("\n}\n");
  return 0;
}

}  // namespace
}  // namespace weir::gpu

int main() { return weir::gpu::Main(); }
