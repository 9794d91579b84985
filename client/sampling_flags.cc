// SPDX-License-Identifier: Apache-2.0
#include "client/sampling_flags.h"

#include "client/flag_range.h"

namespace weir::client {

void SamplingFlags::AddTo(CLI::App& command, uint32_t max_tokens_default) {
  max_tokens = max_tokens_default;
  command.add_option("--max-tokens", max_tokens, "Tokens at most")
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--temperature",
                  temperature,
                  "0: always the most probable token; 1: as the model says")
      ->type_name("T")
      ->check(Within(0.0, 100.0));
  command.add_option("--top-k", top_k, "Only the K most probable tokens")
      ->type_name("K")
      ->check(Within(0, 1 << 30));
  command
      .add_option("--top-p",
                  top_p,
                  "Only the most probable tokens that together reach P")
      ->type_name("P")
      ->check(Within(0.0, 1.0));
  command
      .add_option("--min-p",
                  min_p,
                  "Only tokens at least P times as probable as the best one")
      ->type_name("P")
      ->check(Within(0.0, 1.0));
  command
      .add_option("--repetition-penalty",
                  repetition_penalty,
                  "Over 1: repeat the last 1,024 tokens less")
      ->type_name("X")
      ->check(Within(0.01, 100.0));
  command.add_option("--seed", seed, "The same seed gives the same text")
      ->type_name("N");
  command
      .add_option("--stop",
                  stops,
                  "End when the text holds S; may be given again; \\n is a "
                  "newline")
      ->type_name("S")
      ->allow_extra_args(false);
}

v1::GenerateRequest SamplingFlags::Request() const {
  v1::GenerateRequest request;
  request.set_max_tokens(max_tokens);
  if (temperature.has_value()) request.set_temperature(*temperature);
  request.set_top_k(top_k);
  if (top_p.has_value()) request.set_top_p(*top_p);
  if (min_p.has_value()) request.set_min_p(*min_p);
  if (repetition_penalty.has_value()) {
    request.set_repetition_penalty(*repetition_penalty);
  }
  if (seed.has_value()) request.set_seed(*seed);
  for (const std::string& stop : stops) {
    request.add_stop_strings(Unescape(stop));
  }
  return request;
}

std::string Unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (text[i] != '\\' || (next != 'n' && next != 't' && next != '\\')) {
      plain += text[i];
      continue;
    }
    plain += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
    ++i;
  }
  return plain;
}

std::string FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_INTERRUPTED:
      return "interrupted";
    default:
      return "unspecified";
  }
}

}  // namespace weir::client
