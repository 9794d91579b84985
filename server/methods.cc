// SPDX-License-Identifier: Apache-2.0
#include "server/methods.h"

#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/rpc_service_method.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/request_call.h"
#include "server/stream_call.h"

namespace weir::server {
namespace {

using grpc::ByteBuffer;
using service::Error;
using service::Reason;
using service::Service;

// The whole life of a unary method of the service: parse, ask, answer.
template <auto kParse, auto kAsk>
struct Ask;

template <typename Request,
          typename Result,
          absl::StatusOr<Request> (*kParse)(Wire&),
          void (Service::*kAsk)(
              Request, service::CallContext, service::Completion<Result>)>
struct Ask<kParse, kAsk> {
  static void Serve(const std::shared_ptr<Call>& call, Wire& wire) {
    absl::StatusOr<Request> request = kParse(wire);
    if (!request.ok()) return call->Refuse(request.status());
    (call->host().service->*kAsk)(
        *std::move(request),
        call->ServiceContext(),
        [call](absl::StatusOr<Result> result) {
          if (!result.ok()) return call->Close(result.status());
          call->SendLast(Pack(*result, call->host().served));
        });
  }
};

void Reply(const std::shared_ptr<Call>& call,
           absl::StatusOr<ByteBuffer> reply) {
  if (!reply.ok()) return call->Refuse(reply.status());
  call->SendLast(*std::move(reply));
}

void GetModel(const std::shared_ptr<Call>& call, Wire& wire) {
  Reply(call, AnswerGetModel(wire));
}

void ListModels(const std::shared_ptr<Call>& call, Wire& wire) {
  Reply(call, AnswerListModels(wire));
}

void GetServerInfo(const std::shared_ptr<Call>& call, Wire& wire) {
  const Host& host = call->host();
  Reply(call,
        AnswerServerInfo(wire,
                         {.service = host.service->info(),
                          .uptime = host.clock->Now() - host.started,
                          .draining = host.draining}));
}

enum class Life { kUnary, kGenerate, kStream, kNotBuilt };

struct Method {
  RpcName name;
  Life life = Life::kNotBuilt;
  UnaryCall::Serve serve = nullptr;  // of a unary one
};

constexpr std::string_view kSessions = "weir.v1.Sessions";
constexpr std::string_view kModels = "weir.v1.Models";
constexpr std::string_view kAdmin = "weir.v1.Admin";

constexpr Method kMethods[] = {
    {{"unary", kSessions, "OpenSession"},
     Life::kUnary,
     &Ask<&ParseOpen, &Service::Open>::Serve},
    {{"unary", kSessions, "GetSession"},
     Life::kUnary,
     &Ask<&ParseGet, &Service::Get>::Serve},
    {{"unary", kSessions, "ListSessions"},
     Life::kUnary,
     &Ask<&ParseList, &Service::List>::Serve},
    {{"unary", kSessions, "CloseSession"},
     Life::kUnary,
     &Ask<&ParseClose, &Service::Close>::Serve},
    {{"unary", kSessions, "Append"},
     Life::kUnary,
     &Ask<&ParseAppend, &Service::Append>::Serve},
    {{"bidi_stream", kSessions, "Stream"}, Life::kStream},
    {{"server_stream", kSessions, "Generate"}, Life::kGenerate},
    {{"unary", kSessions, "Fork"},
     Life::kUnary,
     &Ask<&ParseFork, &Service::Fork>::Serve},
    {{"unary", kSessions, "Rollback"}},
    {{"unary", kSessions, "SaveSnapshot"}},
    {{"unary", kSessions, "RestoreSession"}},
    {{"unary", kSessions, "ListSnapshots"}},
    {{"unary", kSessions, "DeleteSnapshot"}},
    {{"server_stream", kSessions, "Export"}},
    {{"client_stream", kSessions, "Import"}},
    {{"unary", kModels, "GetModel"}, Life::kUnary, &GetModel},
    {{"unary", kModels, "ListModels"}, Life::kUnary, &ListModels},
    {{"unary", kAdmin, "Drain"}},
    {{"unary", kAdmin, "GetServerInfo"}, Life::kUnary, &GetServerInfo},
};

constexpr size_t kUnknown = std::size(kMethods);

std::shared_ptr<Call> MakeCall(size_t rpc,
                               const std::shared_ptr<Host>& host,
                               grpc::CallbackServerContext* context) {
  const Method& method = kMethods[rpc];
  switch (method.life) {
    case Life::kUnary:
      return std::make_shared<UnaryCall>(
          host, Call::Kind{rpc, RpcShape::kUnary}, context, method.serve);
    case Life::kGenerate:
      return std::make_shared<GenerateCall>(
          host, Call::Kind{rpc, RpcShape::kGenerate}, context);
    case Life::kStream:
      return std::make_shared<StreamCall>(
          host, Call::Kind{rpc, RpcShape::kStream}, context);
    case Life::kNotBuilt:
      break;
  }
  const std::string name(method.name.method);
  return std::make_shared<RefusedCall>(
      host,
      Call::Kind{rpc, RpcShape::kRefused},
      context,
      Error(Reason::kNotBuilt,
            absl::StrCat(name, " is in the contract and not built yet"),
            {{"method", name}}));
}

}  // namespace

std::span<const RpcName> RpcNames() {
  static const std::vector<RpcName>* const names = [] {
    auto* all = new std::vector<RpcName>;
    for (const Method& method : kMethods) all->push_back(method.name);
    all->push_back({"unknown", "unknown", "unknown"});
    return all;
  }();
  return *names;
}

RawService::RawService(const std::shared_ptr<Host>& host,
                       std::string_view service) {
  using Handler = grpc::internal::CallbackBidiHandler<ByteBuffer, ByteBuffer>;
  using RpcMethod = grpc::internal::RpcServiceMethod;
  int index = 0;
  for (size_t rpc = 0; rpc < std::size(kMethods); ++rpc) {
    const RpcName& name = kMethods[rpc].name;
    if (name.service != service) continue;
    paths_.push_back(std::make_unique<std::string>(absl::StrCat(
        "/", std::string(name.service), "/", std::string(name.method))));
    AddMethod(new RpcMethod(paths_.back()->c_str(),
                            grpc::internal::RpcMethod::BIDI_STREAMING,
                            nullptr));
    MarkMethodRawCallback(
        index++, new Handler([host, rpc](grpc::CallbackServerContext* context) {
          return Call::Begin(MakeCall(rpc, host, context));
        }));
  }
}

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  return Call::Begin(std::make_shared<RefusedCall>(
      host_,
      Call::Kind{kUnknown, RpcShape::kRefused},
      context,
      Error(Reason::kUnknownMethod, "this server has no such method")));
}

}  // namespace weir::server
