// SPDX-License-Identifier: Apache-2.0
#include "client/client.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "base/status_macros.h"
#include "client/errors.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace weir::client {
namespace {

// Whether a target is this machine, as HOST:PORT or with a resolver's scheme.
bool IsLoopback(std::string_view target) {
  for (const std::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (!target.starts_with(scheme)) continue;
    target.remove_prefix(scheme.size());
    break;
  }
  const std::string_view host = target.substr(0, target.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.starts_with("127.");
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target) {
  grpc::ChannelArguments arguments;
  // gRPC sends even loopback through http_proxy, where nobody would find it.
  if (IsLoopback(target)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A server that restarts is found again soon; gRPC's own steps reach two
  // minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return grpc::CreateCustomChannel(
      target, grpc::InsecureChannelCredentials(), arguments);
}

bool IsHeaderSafe(std::string_view text) {
  return std::all_of(
      text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

}  // namespace

std::string NewId() {
  std::random_device device;
  std::string id;
  for (int word = 0; word < 4; ++word) {
    const uint32_t bits = device();
    for (int digit = 0; digit < 8; ++digit) {
      id += "0123456789abcdef"[(bits >> (4 * digit)) & 15];
    }
  }
  return id;
}

void AddSessionHint(std::string_view session_id, grpc::ClientContext* context) {
  // A malformed id is the server's to refuse, with its reason; as metadata it
  // would end the process.
  if (session_id.empty() || !IsHeaderSafe(session_id)) return;
  context->AddMetadata("x-session-id", std::string(session_id));
}

Client::Client(ClientOptions options)
    : options_(std::move(options)), channel_(MakeChannel(options_.target)) {
  if (options_.cancellation == nullptr) {
    options_.cancellation = std::make_shared<Cancellation>();
  }
  sessions_ = v1::Sessions::NewStub(channel_);
  models_ = v1::Models::NewStub(channel_);
  if (!options_.admin_target.empty()) {
    admin_ = v1::Admin::NewStub(MakeChannel(options_.admin_target));
  }
}

absl::Status Client::Connect(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || absl::Now() >= end) {
      return absl::UnavailableError("cannot reach " + options_.target);
    }
    if (cancellation().cancelled()) return absl::CancelledError("interrupted");
    // In slices, so that an interrupt is seen.
    const absl::Time slice =
        std::min(end, absl::Now() + absl::Milliseconds(200));
    channel_->WaitForStateChange(state, absl::ToChronoTime(slice));
    state = channel_->GetState(/*try_to_connect=*/true);
  }
  return absl::OkStatus();
}

absl::Status Client::Call(Repeat repeat,
                          std::string_view session_id,
                          const Try& call) {
  Backoff backoff(options_.retry, absl::Now());
  while (true) {
    if (cancellation().cancelled()) return absl::CancelledError("interrupted");
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(DeadlineOfTry(
        repeat, absl::Now(), options_.call_deadline, backoff.end())));
    AddSessionHint(session_id, &context);
    absl::Status status;
    {
      const Cancellation::Call in_flight(&cancellation(), &context);
      status = FromGrpc(call(&context));
    }
    if (status.ok() || cancellation().cancelled() ||
        !MayRetry(status, repeat)) {
      return status;
    }
    const absl::Duration wait = backoff.Next(status, absl::Now());
    if (wait == absl::InfiniteDuration()) return status;
    if (!cancellation().WaitFor(wait)) return status;
  }
}

absl::StatusOr<v1::OpenSessionReply> Client::OpenSession(
    const v1::OpenSessionRequest& request) {
  v1::OpenSessionReply reply;
  const Repeat repeat =
      request.session_id().empty() ? Repeat::kNever : Repeat::kSafe;
  WEIR_RETURN_IF_ERROR(
      Call(repeat, request.session_id(), [&](grpc::ClientContext* context) {
        return sessions_->OpenSession(context, request, &reply);
      }));
  return reply;
}

absl::StatusOr<v1::Session> Client::GetSession(std::string_view session_id) {
  v1::GetSessionRequest request;
  request.set_session_id(std::string(session_id));
  v1::Session reply;
  WEIR_RETURN_IF_ERROR(
      Call(Repeat::kSafe, session_id, [&](grpc::ClientContext* context) {
        return sessions_->GetSession(context, request, &reply);
      }));
  return reply;
}

absl::StatusOr<std::vector<v1::Session>> Client::ListSessions() {
  std::vector<v1::Session> sessions;
  v1::ListSessionsRequest request;
  request.set_page_size(1000);
  do {
    v1::ListSessionsReply reply;
    WEIR_RETURN_IF_ERROR(
        Call(Repeat::kSafe, "", [&](grpc::ClientContext* context) {
          return sessions_->ListSessions(context, request, &reply);
        }));
    sessions.insert(sessions.end(),
                    std::make_move_iterator(reply.mutable_sessions()->begin()),
                    std::make_move_iterator(reply.mutable_sessions()->end()));
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return sessions;
}

absl::StatusOr<v1::CloseSessionReply> Client::CloseSession(
    std::string_view session_id) {
  v1::CloseSessionRequest request;
  request.set_session_id(std::string(session_id));
  v1::CloseSessionReply reply;
  const Try close = [&](grpc::ClientContext* context) {
    return sessions_->CloseSession(context, request, &reply);
  };
  if (cancellation().cancelled()) {
    // Who interrupts a program still wants its sessions closed: one short try.
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(2)));
    AddSessionHint(session_id, &context);
    WEIR_RETURN_IF_ERROR(FromGrpc(close(&context)));
  } else {
    WEIR_RETURN_IF_ERROR(Call(Repeat::kSafe, session_id, close));
  }
  return reply;
}

absl::StatusOr<v1::AppendReply> Client::Append(
    const v1::AppendRequest& request) {
  v1::AppendReply reply;
  WEIR_RETURN_IF_ERROR(Call(Repeat::kExactlyOnce,
                            request.session_id(),
                            [&](grpc::ClientContext* context) {
                              return sessions_->Append(
                                  context, request, &reply);
                            }));
  return reply;
}

absl::StatusOr<v1::ForkReply> Client::Fork(v1::ForkRequest request) {
  if (request.request_id().empty()) request.set_request_id(NewId());
  v1::ForkReply reply;
  WEIR_RETURN_IF_ERROR(Call(Repeat::kExactlyOnce,
                            request.session_id(),
                            [&](grpc::ClientContext* context) {
                              return sessions_->Fork(context, request, &reply);
                            }));
  return reply;
}

absl::StatusOr<v1::Model> Client::GetModel(std::string_view name) {
  v1::GetModelRequest request;
  request.set_name(std::string(name));
  v1::Model reply;
  WEIR_RETURN_IF_ERROR(
      Call(Repeat::kSafe, "", [&](grpc::ClientContext* context) {
        return models_->GetModel(context, request, &reply);
      }));
  return reply;
}

absl::StatusOr<std::vector<v1::Model>> Client::ListModels() {
  std::vector<v1::Model> models;
  v1::ListModelsRequest request;
  do {
    v1::ListModelsReply reply;
    WEIR_RETURN_IF_ERROR(
        Call(Repeat::kSafe, "", [&](grpc::ClientContext* context) {
          return models_->ListModels(context, request, &reply);
        }));
    models.insert(models.end(),
                  std::make_move_iterator(reply.mutable_models()->begin()),
                  std::make_move_iterator(reply.mutable_models()->end()));
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return models;
}

absl::StatusOr<v1::GetServerInfoReply> Client::GetServerInfo() {
  if (admin_ == nullptr) {
    return absl::FailedPreconditionError("no address of an Admin service");
  }
  v1::GetServerInfoReply reply;
  WEIR_RETURN_IF_ERROR(
      Call(Repeat::kSafe, "", [&](grpc::ClientContext* context) {
        return admin_->GetServerInfo(
            context, v1::GetServerInfoRequest(), &reply);
      }));
  return reply;
}

}  // namespace weir::client
