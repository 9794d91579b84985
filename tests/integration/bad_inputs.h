// SPDX-License-Identifier: Apache-2.0
//
// Requests that are wrong, or look so, and what each is answered: one row each.
// `id` names the row of the project's catalogue: A transport, B protobuf,
// C sessions and appends, D generation, F files and names. Where the answer is
// not the catalogue's, docs/decisions/0009 says why.
//
// No row, because they are no single request that leaves the sessions alone:
//   A1, A20, A22, A24, C7, C20, D8   limits_test.cc
//   C5    AppendTest.OverlapWithANewTailAppliesTheTail
//   C15   AppendTest.Cancelled*, GenerationTest.Cancel*, A22 in limits_test.cc
//   C16   AppendTest.OneThatCannotBeInTimeIsRefusedAtOnce
//   D4    its second half: TooManyTokensToGenerateAreCutAndSaid
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "tests/integration/raw_http2.h"

namespace weir::integration {

struct BadInput {
  std::string id;
  std::string method;  // with its path
  std::string body;    // as it goes into DATA frames
  int code = 0;        // grpc-status
  // ErrorInfo.reason, or one of several with | between; empty where gRPC's core
  // answers before our code sees the call, and for OK.
  std::string reason;
  Headers headers = {};
};

// What the rows rely on: session "a" with the tokens "hello" and the seed 1,
// "empty" without any, "lost" in quarantine, "busy" with a generation that does
// not end, "old" that has expired; at most 4,096 tokens a session.
std::vector<BadInput> BadInputs();

}  // namespace weir::integration
