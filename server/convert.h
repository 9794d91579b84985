// SPDX-License-Identifier: Apache-2.0
//
// The border between the wire and the service: bytes to requests, results to
// bytes, absl::Status to grpc::Status. convert*.cc alone see both protobuf and
// the service's types.
//
// Parsing checks what the wire can get wrong: MALFORMED_PROTO, MISSING_FIELD,
// CONFLICTING_FIELDS, BAD_VALUE, BAD_PAGE, MODEL_NOT_FOUND, TEXT_UNSUPPORTED,
// and TOO_MANY_TOKENS, which must not become a copy of them.
// The service checks the rest.
//
// Threads: pure functions.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/served.h"
#include "service/types.h"

namespace weir::server {

// One message to parse.
struct Wire {
  std::string_view bytes;
  const Served& served;
  // Out: fields that this server does not know; they are ignored.
  int64_t unknown_fields = 0;
};

absl::StatusOr<service::OpenRequest> ParseOpen(Wire& wire);
absl::StatusOr<service::GetRequest> ParseGet(Wire& wire);
absl::StatusOr<service::ListRequest> ParseList(Wire& wire);
absl::StatusOr<service::CloseRequest> ParseClose(Wire& wire);
absl::StatusOr<service::AppendRequest> ParseAppend(Wire& wire);
absl::StatusOr<service::GenerateRequest> ParseGenerate(Wire& wire);
absl::StatusOr<service::ForkRequest> ParseFork(Wire& wire);

grpc::ByteBuffer Pack(const service::OpenResult& result, const Served& served);
grpc::ByteBuffer Pack(const service::SessionInfo& info, const Served& served);
grpc::ByteBuffer Pack(const service::ListResult& result, const Served& served);
grpc::ByteBuffer Pack(const service::CloseResult& result, const Served&);
grpc::ByteBuffer Pack(const service::AppendResult& result, const Served&);
grpc::ByteBuffer Pack(const service::ForkResult& result, const Served&);
grpc::ByteBuffer Pack(const service::GenerateEvent& event);

// What needs no service: answered from what is served.
absl::StatusOr<grpc::ByteBuffer> AnswerGetModel(Wire& wire);
absl::StatusOr<grpc::ByteBuffer> AnswerListModels(Wire& wire);
absl::StatusOr<grpc::ByteBuffer> AnswerServerInfo(Wire& wire,
                                                  const Running& running);

// One item of a Stream. A refused one has its Status in place of the request.
struct StreamItem {
  uint64_t item_id = 0;
  bool want_progress = false;
  std::variant<absl::Status, service::AppendRequest, service::GenerateRequest>
      request;
};

// An error is the message's: nothing in it can be told apart.
absl::StatusOr<StreamItem> ParseStreamItem(Wire& wire);

grpc::ByteBuffer PackItem(uint64_t item_id, const service::AppendResult&);
grpc::ByteBuffer PackItem(uint64_t item_id, const service::GenerateEvent&);
grpc::ByteBuffer PackItem(uint64_t item_id, const absl::Status& refusal);
grpc::ByteBuffer PackProgress(uint64_t item_id,
                              uint64_t applied_position,
                              uint64_t end_position);

// With google.rpc.Status as details: ErrorInfo where the Status has a reason,
// RetryInfo where waiting helps. Long values are cut, so that the trailers fit.
grpc::Status ToGrpc(const absl::Status& status);

// Keeps protobuf and gRPC from writing what clients sent to stderr.
void SilenceLibraries();

}  // namespace weir::server
