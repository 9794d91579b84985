// SPDX-License-Identifier: Apache-2.0
#include "server/request_call.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weir::server {
namespace {

using service::Error;
using service::Reason;

constexpr absl::Duration kRequestWithin = absl::Seconds(30);

}  // namespace

void RequestCall::Start() { Read(&request_); }

void RequestCall::OnReadDone(bool ok) {
  if (ok) CountReceived();
  if (!has_request_) {
    if (ok) {
      has_request_ = true;
      Read(&surplus_);
    } else if (!Broken()) {
      Refuse(Error(Reason::kTruncatedMessage,
                   "the call ended without a whole request"));
    }
    return;
  }
  if (ok) {
    Refuse(Error(Reason::kUnexpectedMessage,
                 "a second message on a method that takes one request"));
    return;
  }
  if (Broken()) return;
  handled_ = true;
  const MessageView view(request_);
  Handle(view.bytes());
}

void RequestCall::OnTick(absl::Duration now) {
  if (handled_ || now - begun() < kRequestWithin) return;
  const std::string limit = absl::FormatDuration(kRequestWithin);
  Refuse(Error(
      Reason::kIdleStream,
      absl::StrCat(
          "no whole request came within ", limit, " of the start of the call"),
      {{"limit", limit}}));
}

void UnaryCall::Handle(std::string_view request) {
  Wire wire{request, host().served};
  serve_(shared_from_this(), wire);
  host().metrics->OnUnknownFields(wire.unknown_fields);
}

// The last event leaves together with the status, when the service has let go
// of the session.
void GenerateCall::Handle(std::string_view bytes) {
  Wire wire{bytes, host().served};
  absl::StatusOr<service::GenerateRequest> request = ParseGenerate(wire);
  host().metrics->OnUnknownFields(wire.unknown_fields);
  if (!request.ok()) return Refuse(request.status());
  const std::shared_ptr<RequestCall> self = Self();
  const auto last = std::make_shared<grpc::ByteBuffer>();
  request->on_event = [self, last](const service::GenerateEvent& event) {
    grpc::ByteBuffer message = Pack(event);
    if (event.finish == service::FinishReason::kNone) {
      self->Send(message, true);
    } else {
      last->Swap(&message);
    }
  };
  host().service->Generate(
      *std::move(request),
      ServiceContext(),
      [self, last](const absl::StatusOr<service::GenerateResult>& result) {
        if (result.ok()) return self->SendLast(*last);
        if (service::ReasonOf(result.status()) == Reason::kSlowConsumer) {
          return self->Abort(result.status());
        }
        self->Close(result.status());
      });
}

}  // namespace weir::server
