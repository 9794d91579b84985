// SPDX-License-Identifier: Apache-2.0
#include "tests/support/manual_step_loop.h"

namespace weir::support {

using service::CallContext;

Tokens Generated::tokens() const {
  Tokens all;
  for (const service::GenerateEvent& event : *events) {
    all.insert(all.end(), event.tokens.begin(), event.tokens.end());
  }
  return all;
}

std::string Generated::text() const {
  std::string all;
  for (const service::GenerateEvent& event : *events) all += event.text;
  return all;
}

std::vector<float> Generated::log_probs() const {
  std::vector<float> all;
  for (const service::GenerateEvent& event : *events) {
    all.insert(all.end(), event.log_probs.begin(), event.log_probs.end());
  }
  return all;
}

service::FinishReason Generated::finish() const {
  return events->empty() ? service::FinishReason::kNone : events->back().finish;
}

ManualStepLoop::ManualStepLoop(Options options) {
  auto engine = std::make_unique<FakeEngine>(options.engine);
  auto store = std::make_unique<FakeStore>();
  engine_ = engine.get();
  store_ = store.get();
  service::Service::Parts parts;
  parts.engine = std::move(engine);
  parts.store = std::move(store);
  parts.clock = &clock_;
  parts.observer = &observer_;
  loop_ = std::make_unique<service::StepLoop>(std::move(parts), options.limits);
}

ManualStepLoop::~ManualStepLoop() = default;

Reply<service::OpenResult> ManualStepLoop::Open(std::string id) {
  return Open(service::OpenRequest{
      .session_id = std::move(id), .seed = {}, .idle_timeout = {}});
}

Reply<service::OpenResult> ManualStepLoop::Open(service::OpenRequest request) {
  Reply<service::OpenResult> reply;
  loop_->Push(service::OpenCall(std::move(request),
                                CallContext{},
                                reply.Sink(),
                                clock_.Now(),
                                &observer_));
  return reply;
}

Reply<service::SessionInfo> ManualStepLoop::Get(std::string id) {
  Reply<service::SessionInfo> reply;
  loop_->Push(service::GetCall({.session_id = std::move(id)},
                               CallContext{},
                               reply.Sink(),
                               clock_.Now(),
                               &observer_));
  return reply;
}

Reply<service::ListResult> ManualStepLoop::List(service::ListRequest request) {
  Reply<service::ListResult> reply;
  loop_->Push(service::ListCall(std::move(request),
                                CallContext{},
                                reply.Sink(),
                                clock_.Now(),
                                &observer_));
  return reply;
}

Reply<service::CloseResult> ManualStepLoop::Close(std::string id) {
  Reply<service::CloseResult> reply;
  loop_->Push(service::CloseCall({.session_id = std::move(id)},
                                 CallContext{},
                                 reply.Sink(),
                                 clock_.Now(),
                                 &observer_));
  return reply;
}

Reply<service::AppendResult> ManualStepLoop::Append(std::string id,
                                                    uint64_t position,
                                                    Tokens tokens,
                                                    bool want_scores) {
  service::AppendRequest request;
  request.session_id = std::move(id);
  request.expected_position = position;
  request.tokens = std::move(tokens);
  request.want_scores = want_scores;
  return Append(std::move(request));
}

Reply<service::AppendResult> ManualStepLoop::Append(
    service::AppendRequest request, CallContext context) {
  Reply<service::AppendResult> reply;
  loop_->Push(service::AppendCall(std::move(request),
                                  std::move(context),
                                  reply.Sink(),
                                  clock_.Now(),
                                  &observer_));
  return reply;
}

Generated ManualStepLoop::Generate(service::GenerateRequest request,
                                   CallContext context) {
  Generated generated;
  generated.events = std::make_shared<std::vector<service::GenerateEvent>>();
  if (context.call == nullptr) {
    context.call = std::make_shared<service::CallState>();
  }
  generated.call = context.call;
  if (!request.on_event) {
    request.on_event = [events =
                            generated.events](service::GenerateEvent event) {
      events->push_back(std::move(event));
    };
  }
  loop_->Push(service::GenerateCall(std::move(request),
                                    std::move(context),
                                    generated.end.Sink(),
                                    clock_.Now(),
                                    &observer_));
  return generated;
}

Reply<service::ForkResult> ManualStepLoop::Fork(service::ForkRequest request) {
  Reply<service::ForkResult> reply;
  loop_->Push(service::ForkCall(std::move(request),
                                CallContext{},
                                reply.Sink(),
                                clock_.Now(),
                                &observer_));
  return reply;
}

void ManualStepLoop::Run() {
  while (RunOnce()) {
  }
}

service::SessionInfo ManualStepLoop::Info(std::string id) {
  const Reply<service::SessionInfo> reply = Get(std::move(id));
  Run();
  WEIR_CHECK(reply.ok());
  return *reply;
}

}  // namespace weir::support
