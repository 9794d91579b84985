// SPDX-License-Identifier: Apache-2.0
//
// Reads the files of expected values in tests/golden and models/demo. It
// trusts them, and shares nothing with the engine's own reader.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weir::golden {

struct Golden {
  std::vector<uint32_t> tokens;      // [T]
  std::vector<float> logits;         // [P, V]; row i predicts token
                                     // positions[i] + 1
  std::vector<int64_t> positions;    // [P], ascending
  std::vector<uint32_t> greedy;      // the continuation after all tokens
  std::vector<float> greedy_margin;  // first minus second logit
  int64_t vocabulary = 0;

  // log_softmax(logits[row])[token], in fp64.
  double LogProbability(size_t row, uint32_t token) const;
};

// The folders of `root` that hold golden.safetensors, by name and in order: a
// checkpoint that is put there is tested.
std::vector<std::string> GoldenFolders(const std::string& root);

// The test fails, and the values are empty, if the file is missing or broken.
Golden ReadGolden(const std::string& path);

}  // namespace weir::golden
