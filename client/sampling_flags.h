// SPDX-License-Identifier: Apache-2.0
//
// The flags that say how tokens are sampled, shared by `generate` and `chat`.
//
// Threads: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "weir/v1/sessions.pb.h"

namespace weir::client {

struct SamplingFlags {
  uint32_t max_tokens = 0;
  std::optional<float> temperature;
  int32_t top_k = 0;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stops;

  void AddTo(CLI::App& command, uint32_t max_tokens_default);
  v1::GenerateRequest Request() const;
};

// "\n", "\t" and "\\" in a flag's value as the characters they stand for.
std::string Unescape(const std::string& text);

// "length", "stop", "interrupted".
std::string FinishName(v1::FinishReason reason);

}  // namespace weir::client
