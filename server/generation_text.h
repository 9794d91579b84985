// SPDX-License-Identifier: Apache-2.0
//
// The text of one generation of a model whose token ids are bytes.
//
// Threads: the step thread's, as service::TextSink says.
#pragma once

#include <string>
#include <vector>

#include "service/types.h"
#include "text/stop_matcher.h"
#include "text/utf8_stream.h"

namespace weir::server {

class ByteText final : public service::TextSink {
 public:
  void StopAt(const std::vector<std::string>& stop_strings) override {
    matcher_ = text::StopMatcher(stop_strings);
  }
  std::string Push(uint32_t token) override;
  std::string Flush() override;
  const std::string* stop() const override { return matcher_.stop(); }

 private:
  text::Utf8Stream stream_;
  text::StopMatcher matcher_{{}};
};

}  // namespace weir::server
