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
  explicit ByteText(std::vector<std::string> stops)
      : matcher_(std::move(stops)) {}

  std::string Push(uint32_t token) override;
  std::string Flush() override;
  const std::string* stop() const override { return matcher_.stop(); }

 private:
  text::Utf8Stream stream_;
  text::StopMatcher matcher_;
};

}  // namespace weir::server
