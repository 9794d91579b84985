// SPDX-License-Identifier: Apache-2.0
#include "tests/client/fake_server.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace weir::client {
namespace {

google::rpc::Status NotFound(const std::string& id) {
  return Refusal(
      grpc::StatusCode::NOT_FOUND, "SESSION_NOT_FOUND", {{"sessionId", id}});
}

google::rpc::Status AtPosition(grpc::StatusCode code,
                               std::string_view reason,
                               uint64_t position) {
  return Refusal(code, reason, {{"position", std::to_string(position)}});
}

}  // namespace

google::rpc::Status Refusal(grpc::StatusCode code,
                            std::string_view reason,
                            std::map<std::string, std::string> metadata,
                            absl::Duration retry_after) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message("refused: " + std::string(reason));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain("weir.dev");
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  status.add_details()->PackFrom(info);
  if (retry_after >= absl::ZeroDuration()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(retry_after)));
    status.add_details()->PackFrom(retry);
  }
  return status;
}

grpc::Status ToGrpc(const google::rpc::Status& status) {
  if (status.code() == 0) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      status.message(),
                      status.SerializeAsString());
}

float FakeServer::ScoreAt(uint64_t position, uint32_t token) {
  if (position == 0) return std::numeric_limits<float>::quiet_NaN();
  return -0.5f - static_cast<float>((token * 31 + position * 7) % 16) / 8;
}

uint32_t FakeServer::GeneratedAt(uint64_t position) {
  return 'a' + position * 7 % 26;
}

FakeServer::FakeServer() {
  model_.set_name("fake");
  model_.set_family("gated_deltanet");
  model_.set_parameters(7'500'000);
  model_.set_vocabulary(256);
  model_.set_state_bytes(598'016);
  model_.set_takes_text(true);
  model_.set_start_token(0);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(
      "127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(static_cast<v1::Sessions::Service*>(this));
  builder.RegisterService(static_cast<v1::Models::Service*>(this));
  server_ = builder.BuildAndStart();
  WEIR_CHECK(server_ != nullptr);
}

FakeServer::~FakeServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeServer::set_plan(FaultPlan plan) {
  absl::MutexLock lock(&mutex_);
  plan_ = std::move(plan);
  calls_.clear();
}

void FakeServer::set_model(v1::Model model) {
  absl::MutexLock lock(&mutex_);
  model_ = std::move(model);
}

std::vector<uint32_t> FakeServer::log(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  return logs_[session_id].tokens;
}

bool FakeServer::is_open(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  return logs_.contains(session_id);
}

int FakeServer::calls(std::string_view call) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  return found == calls_.end() ? 0 : found->second;
}

uint64_t FakeServer::duplicate_tokens() {
  absl::MutexLock lock(&mutex_);
  return duplicate_tokens_;
}

int FakeServer::streams() {
  absl::MutexLock lock(&mutex_);
  return streams_;
}

void FakeServer::Truncate(const std::string& session_id, size_t length) {
  absl::MutexLock lock(&mutex_);
  logs_[session_id].tokens.resize(length);
  logs_[session_id].scores.resize(length);
}

void FakeServer::Quarantine(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  Log& log = logs_[session_id];
  log.tokens.push_back(0);
  log.scores.push_back(0);
  log.waiting = 1;
  log.quarantined = true;
}

void FakeServer::Delay(const std::string& session_id, uint64_t tokens) {
  absl::MutexLock lock(&mutex_);
  logs_[session_id].waiting = tokens;
}

Fault FakeServer::NextFault(std::string_view call) {
  absl::MutexLock lock(&mutex_);
  const int nth = ++calls_[std::string(call)];
  return plan_ ? plan_(call, nth) : Fault();
}

void FakeServer::Hang(grpc::ServerContext* context,
                      absl::Duration most,
                      const std::function<void()>& each) {
  const absl::Time end = absl::Now() + most;
  absl::Mutex never;
  absl::MutexLock lock(&never);
  bool false_for_ever = false;
  while (!context->IsCancelled() && absl::Now() < end) {
    never.AwaitWithTimeout(absl::Condition(&false_for_ever),
                           absl::Milliseconds(5));
    each();
  }
}

grpc::Status FakeServer::Planned(
    std::string_view call,
    grpc::ServerContext* context,
    const std::function<google::rpc::Status()>& apply) {
  const Fault fault = NextFault(call);
  if (fault.when == Fault::When::kBefore) return fault.status;
  grpc::Status status;
  {
    absl::MutexLock lock(&mutex_);
    status = ToGrpc(apply());
  }
  if (fault.when == Fault::When::kHang) Hang(context);
  if (fault.when == Fault::When::kSlow) Hang(context, fault.slow);
  return fault.when == Fault::When::kAfter ? fault.status : status;
}

void FakeServer::Describe(const std::string& id,
                          const Log& log,
                          v1::Session* session) {
  session->set_session_id(id);
  session->set_position(log.tokens.size());
  session->set_applied_position(log.tokens.size() - log.waiting);
  session->set_model(model_.name());
  session->set_epoch(1);
  session->set_state_bytes(model_.state_bytes());
  session->set_quarantined(log.quarantined);
  session->set_scored_tokens(log.scored_tokens);
  session->set_sum_log_prob(log.sum_log_prob);
  session->mutable_idle()->set_seconds(75);
}

grpc::Status FakeServer::OpenSession(grpc::ServerContext* context,
                                     const v1::OpenSessionRequest* request,
                                     v1::OpenSessionReply* reply) {
  return Planned("OpenSession", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    if (request->model() != model_.name()) {
      return Refusal(grpc::StatusCode::NOT_FOUND,
                     "MODEL_NOT_FOUND",
                     {{"model", request->model()}});
    }
    const std::string id = request->session_id().empty()
                               ? "issued-" + std::to_string(++issued_)
                               : request->session_id();
    const auto [entry, created] = logs_.try_emplace(id);
    if (created) {
      entry->second.opened = *request;
    } else if (entry->second.opened.seed() != request->seed()) {
      return Refusal(grpc::StatusCode::ALREADY_EXISTS, "SESSION_EXISTS");
    }
    reply->set_session_id(id);
    reply->set_position(entry->second.tokens.size());
    reply->set_created(created);
    reply->set_model(model_.name());
    reply->set_state_bytes(model_.state_bytes());
    return {};
  });
}

grpc::Status FakeServer::GetSession(grpc::ServerContext* context,
                                    const v1::GetSessionRequest* request,
                                    v1::Session* reply) {
  return Planned("GetSession", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    const auto found = logs_.find(request->session_id());
    if (found == logs_.end()) return NotFound(request->session_id());
    Describe(found->first, found->second, reply);
    Log& log = found->second;
    if (log.waiting > 0 && !log.quarantined) --log.waiting;
    return {};
  });
}

grpc::Status FakeServer::ListSessions(grpc::ServerContext* context,
                                      const v1::ListSessionsRequest* request,
                                      v1::ListSessionsReply* reply) {
  // Pages of two, so that paging is used.
  return Planned("ListSessions", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    auto entry = logs_.upper_bound(request->page_token());
    for (int i = 0; i < 2 && entry != logs_.end(); ++i, ++entry) {
      Describe(entry->first, entry->second, reply->add_sessions());
    }
    if (entry != logs_.end()) {
      reply->set_next_page_token(reply->sessions().rbegin()->session_id());
    }
    return {};
  });
}

grpc::Status FakeServer::CloseSession(grpc::ServerContext* context,
                                      const v1::CloseSessionRequest* request,
                                      v1::CloseSessionReply* reply) {
  return Planned("CloseSession", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    const auto found = logs_.find(request->session_id());
    if (found == logs_.end()) return {};
    reply->set_closed(true);
    reply->set_position(found->second.tokens.size());
    logs_.erase(found);
    return {};
  });
}

google::rpc::Status FakeServer::Apply(const v1::AppendRequest& request,
                                      v1::AppendReply* reply) {
  const auto found = logs_.find(request.session_id());
  if (found == logs_.end()) return NotFound(request.session_id());
  Log& log = found->second;
  if (log.quarantined) {
    return Refusal(grpc::StatusCode::FAILED_PRECONDITION, "QUARANTINED");
  }
  const uint64_t end = log.tokens.size();
  const uint64_t start = request.expected_position();
  std::vector<uint32_t> tokens(request.tokens().begin(),
                               request.tokens().end());
  for (const char c : request.text()) tokens.push_back(uint8_t(c));
  if (tokens.size() > 65'536) {
    return Refusal(grpc::StatusCode::INVALID_ARGUMENT, "TOO_MANY_TOKENS");
  }
  if (start > end) {
    return AtPosition(grpc::StatusCode::OUT_OF_RANGE, "POSITION_GAP", end);
  }
  const uint64_t known = std::min<uint64_t>(tokens.size(), end - start);
  if (!std::equal(
          tokens.begin(), tokens.begin() + known, log.tokens.begin() + start)) {
    return AtPosition(grpc::StatusCode::ABORTED, "POSITION_CONFLICT", end);
  }
  for (uint64_t i = known; i < tokens.size(); ++i) {
    const float score = request.want_scores()
                            ? ScoreAt(start + i, tokens[i])
                            : std::numeric_limits<float>::quiet_NaN();
    log.tokens.push_back(tokens[i]);
    log.scores.push_back(score);
    if (!std::isnan(score)) {
      ++log.scored_tokens;
      log.sum_log_prob += score;
    }
  }
  duplicate_tokens_ += known;
  reply->set_duplicate_tokens(known);
  reply->set_duplicate(!tokens.empty() && known == tokens.size());
  reply->set_position(reply->duplicate() ? end : log.tokens.size());
  for (uint64_t i = 0; request.want_scores() && i < tokens.size(); ++i) {
    reply->add_scores(log.scores[start + i]);
  }
  return {};
}

grpc::Status FakeServer::Append(grpc::ServerContext* context,
                                const v1::AppendRequest* request,
                                v1::AppendReply* reply) {
  return Planned("Append", context, [&] {
    mutex_.AssertHeld();
    return Apply(*request, reply);
  });
}

grpc::Status FakeServer::Stream(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::StreamReply, v1::StreamRequest>* stream) {
  {
    absl::MutexLock lock(&mutex_);
    ++streams_;
  }
  v1::StreamRequest request;
  while (stream->Read(&request)) {
    const Fault fault = NextFault("Append");
    if (fault.when == Fault::When::kBefore) {
      // A refusal with details is the item's answer; without, the stream ends.
      if (fault.status.error_details().empty()) return fault.status;
      v1::StreamReply refused;
      refused.set_item_id(request.item_id());
      refused.mutable_error()->ParseFromString(fault.status.error_details());
      stream->Write(refused);
      continue;
    }
    v1::StreamReply reply;
    reply.set_item_id(request.item_id());
    {
      absl::MutexLock lock(&mutex_);
      const google::rpc::Status status =
          Apply(request.append(), reply.mutable_append());
      if (status.code() != 0) *reply.mutable_error() = status;
    }
    if (fault.when == Fault::When::kHang) Hang(context);
    if (fault.when == Fault::When::kSlow) {
      Hang(context, fault.slow, [&] {
        v1::StreamReply progress;
        progress.set_item_id(request.item_id());
        progress.mutable_progress();
        if (request.want_progress()) stream->Write(progress);
      });
    }
    if (fault.when == Fault::When::kHang || fault.when == Fault::When::kAfter) {
      return fault.status;
    }
    stream->Write(reply);
  }
  return grpc::Status::OK;
}

google::rpc::Status FakeServer::Begin(const v1::GenerateRequest& request,
                                      uint64_t* position,
                                      Generation* generation) {
  absl::MutexLock lock(&mutex_);
  const auto found = logs_.find(request.session_id());
  if (found == logs_.end()) return NotFound(request.session_id());
  Log& log = found->second;
  const uint64_t end = log.tokens.size();
  const auto known = log.generations.find(request.request_id());
  if (known == log.generations.end()) {
    *position =
        request.has_expected_position() ? request.expected_position() : end;
    if (*position < end) {
      return AtPosition(grpc::StatusCode::ABORTED, "POSITION_CONFLICT", end);
    }
    *generation = {.begin = *position, .end = *position + request.max_tokens()};
    log.generations[request.request_id()] = *generation;
  } else {
    *generation = known->second;
    *position = request.has_expected_position() ? request.expected_position()
                                                : generation->begin;
  }
  if (*position > end) {
    return AtPosition(grpc::StatusCode::OUT_OF_RANGE, "POSITION_GAP", end);
  }
  return {};
}

grpc::Status FakeServer::Generate(
    grpc::ServerContext* context,
    const v1::GenerateRequest* request,
    grpc::ServerWriter<v1::GenerateReply>* writer) {
  uint64_t position = 0;
  Generation generation;
  const google::rpc::Status refused = Begin(*request, &position, &generation);
  if (refused.code() != 0) return ToGrpc(refused);
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
  while (finish == v1::FINISH_REASON_UNSPECIFIED) {
    v1::GenerateReply reply;
    if (position < generation.end) {
      const Fault fault = NextFault("Generate");
      if (fault.when == Fault::When::kBefore) return fault.status;
      const uint32_t token = GeneratedAt(position);
      {
        absl::MutexLock lock(&mutex_);
        Log& log = logs_[request->session_id()];
        reply.set_duplicate(position < log.tokens.size());
        if (!reply.duplicate()) {
          log.tokens.push_back(token);
          log.scores.push_back(std::numeric_limits<float>::quiet_NaN());
        }
      }
      if (fault.when == Fault::When::kHang) Hang(context);
      if (fault.when != Fault::When::kNever) return fault.status;
      ++position;
      reply.add_tokens(token);
      reply.set_text(std::string(1, static_cast<char>(token)));
      if (request->want_log_probs()) reply.add_log_probs(-1);
      for (const std::string& stop : request->stop_strings()) {
        if (stop == reply.text()) {
          finish = v1::FINISH_REASON_STOP;
          reply.set_stop_string(stop);
        }
      }
    }
    if (position >= generation.end) finish = v1::FINISH_REASON_LENGTH;
    reply.set_position(position);
    reply.set_finish_reason(finish);
    reply.set_max_tokens(request->max_tokens());
    if (!writer->Write(reply)) return grpc::Status::CANCELLED;
  }
  return grpc::Status::OK;
}

grpc::Status FakeServer::Fork(grpc::ServerContext* context,
                              const v1::ForkRequest* request,
                              v1::ForkReply* reply) {
  return Planned("Fork", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    const auto found = logs_.find(request->session_id());
    if (found == logs_.end()) return NotFound(request->session_id());
    const auto made = forks_.find(request->request_id());
    if (made != forks_.end() && !request->request_id().empty()) {
      reply->set_session_id(made->second);
      reply->set_duplicate(true);
    } else {
      const std::string id = request->new_session_id().empty()
                                 ? "issued-" + std::to_string(++issued_)
                                 : request->new_session_id();
      if (logs_.contains(id)) {
        return Refusal(grpc::StatusCode::ALREADY_EXISTS, "SESSION_EXISTS");
      }
      logs_[id] = found->second;
      forks_[request->request_id()] = id;
      reply->set_session_id(id);
    }
    reply->set_position(logs_[reply->session_id()].tokens.size());
    return {};
  });
}

grpc::Status FakeServer::GetModel(grpc::ServerContext* context,
                                  const v1::GetModelRequest* request,
                                  v1::Model* reply) {
  return Planned("GetModel", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    if (request->name() != model_.name()) {
      return Refusal(grpc::StatusCode::NOT_FOUND, "MODEL_NOT_FOUND");
    }
    *reply = model_;
    return {};
  });
}

grpc::Status FakeServer::ListModels(grpc::ServerContext* context,
                                    const v1::ListModelsRequest*,
                                    v1::ListModelsReply* reply) {
  return Planned("ListModels", context, [&]() -> google::rpc::Status {
    mutex_.AssertHeld();
    *reply->add_models() = model_;
    return {};
  });
}

}  // namespace weir::client
