// SPDX-License-Identifier: Apache-2.0
#include "client/session.h"

#include <utility>

#include "base/status_macros.h"
#include "client/errors.h"

namespace weir::client {

absl::StatusOr<v1::Session> GetSettled(Client& client,
                                       std::string_view session_id) {
  absl::Time end = absl::Now() + client.options().call_deadline;
  uint64_t applied = 0;
  while (true) {
    WEIR_ASSIGN_OR_RETURN(v1::Session session, client.GetSession(session_id));
    if (session.quarantined() ||
        (!session.generating() &&
         session.applied_position() == session.position())) {
      return session;
    }
    if (session.applied_position() > applied) {
      applied = session.applied_position();
      end = absl::Now() + client.options().call_deadline;
    }
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError("session " + session.session_id() +
                                         " is still at work");
    }
    if (!client.cancellation().WaitFor(absl::Milliseconds(20))) {
      return absl::CancelledError("interrupted");
    }
  }
}

Session::Session(Client* client,
                 std::string id,
                 std::string model,
                 uint64_t position)
    : client_(client),
      id_(std::move(id)),
      model_(std::move(model)),
      position_(position) {}

absl::StatusOr<Session> Session::Open(Client& client,
                                      v1::OpenSessionRequest request) {
  if (request.session_id().empty()) request.set_session_id(NewId());
  WEIR_ASSIGN_OR_RETURN(const v1::OpenSessionReply reply,
                        client.OpenSession(request));
  return Session(&client, reply.session_id(), reply.model(), reply.position());
}

absl::StatusOr<Session> Session::Attach(Client& client,
                                        std::string_view session_id) {
  WEIR_ASSIGN_OR_RETURN(const v1::Session found, client.GetSession(session_id));
  Session session(&client, found.session_id(), found.model(), found.position());
  session.Detach();
  return session;
}

Session::Session(Session&& other) noexcept
    : client_(other.client_),
      id_(std::move(other.id_)),
      model_(std::move(other.model_)),
      position_(other.position_),
      close_on_destruction_(std::exchange(other.close_on_destruction_, false)) {
}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(client_, other.client_);
  std::swap(id_, other.id_);
  std::swap(model_, other.model_);
  std::swap(position_, other.position_);
  std::swap(close_on_destruction_, other.close_on_destruction_);
  return *this;
}

Session::~Session() {
  if (close_on_destruction_) Close().IgnoreError();
}

absl::StatusOr<v1::AppendReply> Session::Append(
    std::span<const uint32_t> tokens, const AppendOptions& options) {
  v1::AppendRequest request;
  request.mutable_tokens()->Add(tokens.begin(), tokens.end());
  return Send(std::move(request), options);
}

absl::StatusOr<v1::AppendReply> Session::AppendText(
    std::string_view text, const AppendOptions& options) {
  v1::AppendRequest request;
  request.set_text(std::string(text));
  return Send(std::move(request), options);
}

absl::StatusOr<v1::AppendReply> Session::Send(v1::AppendRequest request,
                                              const AppendOptions& options) {
  request.set_session_id(id_);
  request.set_expected_position(position_);
  request.set_want_scores(options.want_scores);
  request.set_durability(options.durability);
  WEIR_ASSIGN_OR_RETURN(v1::AppendReply reply, client_->Append(request));
  position_ = reply.position();
  return reply;
}

absl::StatusOr<StreamTotals> Session::Stream(const StreamAppendOptions& options,
                                             const TokenSource& source,
                                             const OnAppended& on_appended) {
  return StreamAppend(
      *client_,
      id_,
      position_,
      options,
      source,
      [&](const AppendedPart& part, const StreamTotals& totals) {
        position_ = totals.position;
        on_appended(part, totals);
      });
}

absl::StatusOr<GenerationEnd> Session::Generate(
    v1::GenerateRequest request, const OnGenerated& on_generated) {
  request.set_session_id(id_);
  request.set_expected_position(position_);
  return client::Generate(
      *client_, std::move(request), [&](const v1::GenerateReply& reply) {
        position_ = reply.position();
        on_generated(reply);
      });
}

absl::StatusOr<Session> Session::Fork(std::string_view new_session_id) {
  v1::ForkRequest request;
  request.set_session_id(id_);
  request.set_new_session_id(
      new_session_id.empty() ? NewId() : std::string(new_session_id));
  request.set_position(position_);
  WEIR_ASSIGN_OR_RETURN(const v1::ForkReply reply,
                        client_->Fork(std::move(request)));
  return Session(client_, reply.session_id(), model_, reply.position());
}

absl::Status Session::Refresh() {
  WEIR_ASSIGN_OR_RETURN(const v1::Session found, GetSettled(*client_, id_));
  position_ = found.position();
  return absl::OkStatus();
}

absl::Status Session::Close() {
  close_on_destruction_ = false;
  return client_->CloseSession(id_).status();
}

}  // namespace weir::client
