// SPDX-License-Identifier: Apache-2.0
//
// Draws and scores over logits of normal deviation 3, beside the time in which
// a copy moves as many bytes. Prints JSON, name -> number.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu/timer.h"
#include "engine/kernels/cuda/sampling.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::DrawRow;

constexpr int32_t kRowsMax = 256;
constexpr int32_t kRandomRows = 4;
constexpr int kRepeats = 15;

const std::vector<std::pair<const char*, DrawRow>> kMixes = {
    {"greedy", {.temperature = 0, .is_active = 1}},
    {"plain", {.is_active = 1}},
    {"top_p", {.top_p = 0.9F, .is_active = 1}},
    {"top_k_top_p",
     {.temperature = 0.7F, .top_k = 50, .top_p = 0.95F, .is_active = 1}},
};

void Print(const std::string& name, double us) {
  static bool is_first = true;
  std::printf("%s\n  \"%s\": %.2f", is_first ? "{" : ",", name.c_str(), us);
  is_first = false;
}

void TimeVocabulary(int32_t vocabulary) {
  DeviceArray<float> logits(int64_t{kRowsMax} * vocabulary);
  DeviceArray<float> copy(logits.size());
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> some(int64_t{kRandomRows} * vocabulary);
  for (float& x : some) x = normal(random);
  for (int32_t row = 0; row < kRowsMax; row += kRandomRows) {
    Must(cudaMemcpy(logits.data() + int64_t{row} * vocabulary,
                    some.data(),
                    some.size() * sizeof(float),
                    cudaMemcpyHostToDevice),
         "logits");
  }
  DeviceArray<DrawRow> parameters(kRowsMax);
  DeviceArray<uint32_t> tokens(kRowsMax);
  DeviceArray<uint32_t> finite(kRowsMax);
  DeviceArray<float> log_probs(kRowsMax);
  tokens.Set(std::vector<uint32_t>(kRowsMax, 7));
  for (const int32_t rows : {1, 32, kRowsMax}) {
    const std::string suffix = "_" + std::to_string(vocabulary) + "_rows" +
                               std::to_string(rows) + "_us";
    const int launches = 8;
    const auto time = [&](const std::string& name, const auto& launch) {
      Print(name + suffix, MedianUs(launches, kRepeats, [&](cudaStream_t s) {
              for (int i = 0; i < launches; ++i) Must(launch(s), "launch");
            }));
    };
    for (const auto& [name, how] : kMixes) {
      std::vector<DrawRow> all(kRowsMax, how);
      for (int32_t row = 0; row < kRowsMax; ++row) all[row].position = row;
      parameters.Set(all);
      time(std::string("draw_") + name, [&](cudaStream_t stream) {
        return engine::DrawTokens({.rows = rows,
                                   .vocabulary = vocabulary,
                                   .logits = logits.data(),
                                   .stride = vocabulary,
                                   .parameters = parameters.data(),
                                   .tokens = tokens.data(),
                                   .log_probs = log_probs.data(),
                                   .finite = finite.data()},
                                  stream);
      });
    }
    time("scores", [&](cudaStream_t stream) {
      return engine::TokenScores({.rows = rows,
                                  .vocabulary = vocabulary,
                                  .logits = logits.data(),
                                  .stride = vocabulary,
                                  .targets = tokens.data(),
                                  .scores = log_probs.data()},
                                 stream);
    });
    // As many bytes in all, half of them read.
    time("copy_of_half", [&](cudaStream_t stream) {
      return cudaMemcpyAsync(copy.data(),
                             logits.data(),
                             int64_t{rows} * vocabulary * sizeof(float) / 2,
                             cudaMemcpyDeviceToDevice,
                             stream);
    });
  }
}

}  // namespace
}  // namespace weir::gpu

int main() {
  for (const int32_t vocabulary : {32'000, 151'936}) {
    weir::gpu::TimeVocabulary(vocabulary);
  }
  std::printf("\n}\n");
}
