// SPDX-License-Identifier: Apache-2.0
//
// The text of one generation, and its stop strings.
//
// Threads: the step thread's, as service::TextSink says.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "service/types.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace weir::server {

class GenerationText final : public service::TextSink {
 public:
  explicit GenerationText(text::Tokenizer tokenizer)
      : decoder_(std::move(tokenizer)) {}

  void StopAt(const std::vector<std::string>& stop_strings) override {
    matcher_ = text::StopMatcher(stop_strings);
  }
  std::string Push(uint32_t token) override;
  std::string Flush() override;
  const std::string* stop() const override { return matcher_.stop(); }

 private:
  text::Decoder decoder_;
  text::StopMatcher matcher_{{}};
};

}  // namespace weir::server
