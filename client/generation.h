// SPDX-License-Identifier: Apache-2.0
//
// A generation that survives its connection: a broken call is begun again with
// the same request_id at the position that was reached, so that no token is
// lost and none comes twice.
//
// Threads: Generate runs on its caller's thread, the callback too.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace weir::client {

struct GenerationEnd {
  uint64_t begin = 0;     // position of the first token
  uint64_t position = 0;  // after the last one
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string stop_string;
  uint32_t max_tokens = 0;  // in force
  int resumes = 0;          // how often the call was begun again
};

// Called for each reply that brings something new. Its tokens follow the
// last reply's without a gap. Its text is as the server sent it: after a
// resume a character that was cut in two may come as U+FFFD, tokens are exact.
using OnGenerated = std::function<void(const v1::GenerateReply&)>;

// Runs a generation to its end. An empty request_id is filled in.
absl::StatusOr<GenerationEnd> Generate(Client& client,
                                       v1::GenerateRequest request,
                                       const OnGenerated& on_generated);

}  // namespace weir::client
