// SPDX-License-Identifier: Apache-2.0
//
// Protobuf messages in and out of bytes, and the refusals that every parser
// gives. For convert*.cc alone.
//
// Threads: pure functions.
#pragma once

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "server/convert.h"

namespace weir::server {

// Parses wire.bytes to `message` and counts the fields that it does not know.
// MALFORMED_PROTO.
absl::Status ParseTo(Wire& wire, google::protobuf::Message& message);

template <typename Message>
absl::StatusOr<Message> ParseMessage(Wire& wire) {
  Message message;
  if (absl::Status parsed = ParseTo(wire, message); !parsed.ok()) return parsed;
  return message;
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message);

void SetDuration(absl::Duration from, google::protobuf::Duration* to);

absl::Status MissingField(std::string_view field);
absl::Status BadPage(std::string_view field, std::string_view rule);
// MODEL_NOT_FOUND.
absl::Status CheckModelName(const std::string& name, const Served& served);

google::rpc::Status ToRpcStatus(const absl::Status& status);

}  // namespace weir::server
