// SPDX-License-Identifier: Apache-2.0
//
// What the server says when it refuses, as an absl::Status: code and message
// as sent, and google.rpc.ErrorInfo and RetryInfo as payloads that the
// functions here read.
//
// Threads: pure functions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace weir::client {

// The status of a call. Details that do not parse are dropped; the code and
// the message stay.
absl::Status FromGrpc(const grpc::Status& status);

// The status of one item of a stream.
absl::Status FromItem(const google::rpc::Status& status);

// ErrorInfo.reason, for example "POSITION_CONFLICT"; empty if the status did
// not come from the server itself (gRPC's core, a proxy, this library).
std::string ReasonOf(const absl::Status& status);

// Whether the server says that the session is not open, or no longer.
bool IsNotOpen(const absl::Status& status);

// ErrorInfo.metadata: every value that the message names.
std::map<std::string, std::string> MetadataOf(const absl::Status& status);

// One value of the metadata as a number, for example "position"; nullopt if
// there is none.
std::optional<uint64_t> NumberOf(const absl::Status& status,
                                 std::string_view key);

// RetryInfo.retry_delay; nullopt if the server did not say that waiting helps.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// The same status with "what: " before its message.
absl::Status Annotate(const absl::Status& status, std::string_view what);

}  // namespace weir::client
