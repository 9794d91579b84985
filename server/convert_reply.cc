// SPDX-License-Identifier: Apache-2.0
#include "base/status_macros.h"
#include "server/convert.h"
#include "server/version.h"
#include "server/wire_message.h"
#include "weir/v1/admin.pb.h"
#include "weir/v1/models.pb.h"
#include "weir/v1/sessions.pb.h"

namespace weir::server {
namespace {

v1::Durability FromDurability(service::Durability durability) {
  switch (durability) {
    case service::Durability::kApplied:
      return v1::DURABILITY_APPLIED;
    case service::Durability::kLocal:
      return v1::DURABILITY_LOCAL;
    case service::Durability::kShared:
      return v1::DURABILITY_SHARED;
  }
  return v1::DURABILITY_UNSPECIFIED;
}

void Fill(const service::SessionInfo& info,
          const Served& served,
          v1::Session* message) {
  message->set_session_id(info.session_id);
  message->set_position(info.position);
  message->set_applied_position(info.applied_position);
  message->set_model(served.name);
  message->set_epoch(info.epoch);
  message->set_state_bytes(served.model.state_bytes);
  message->set_scored_tokens(info.scored_tokens);
  message->set_sum_log_prob(info.sum_log_prob);
  message->set_seed(info.seed);
  SetDuration(info.idle_timeout, message->mutable_idle_timeout());
  SetDuration(info.idle, message->mutable_idle());
  message->set_generating(info.generating);
  message->set_quarantined(info.quarantined);
}

void Fill(const service::AppendResult& result, v1::AppendReply* message) {
  message->set_position(result.position);
  message->set_duplicate(result.duplicate);
  message->set_duplicate_tokens(result.duplicate_tokens);
  message->mutable_scores()->Add(result.scores.begin(), result.scores.end());
  message->set_local_position(result.local_position);
  message->set_shared_position(result.shared_position);
  message->set_epoch(result.epoch);
}

v1::FinishReason FromFinish(service::FinishReason finish) {
  switch (finish) {
    case service::FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case service::FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case service::FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case service::FinishReason::kInterrupted:
      return v1::FINISH_REASON_INTERRUPTED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void Fill(const service::GenerateEvent& event, v1::GenerateReply* message) {
  message->mutable_tokens()->Add(event.tokens.begin(), event.tokens.end());
  message->set_text(event.text);
  message->mutable_log_probs()->Add(event.log_probs.begin(),
                                    event.log_probs.end());
  message->set_position(event.position);
  message->set_finish_reason(FromFinish(event.finish));
  message->set_stop_string(event.stop_string);
  message->set_duplicate(event.duplicate);
  message->set_epoch(event.epoch);
  message->set_max_tokens(event.max_tokens);
}

void Fill(const Served& served, v1::Model* message) {
  const engine::ModelInfo& model = served.model;
  message->set_name(served.name);
  message->set_family(model.family);
  message->set_parameters(model.parameters);
  message->set_vocabulary(model.vocabulary);
  message->set_state_bytes(model.state_bytes);
  message->set_trained_length(model.trained_length);
  message->set_layers(model.layers);
  message->set_dtype(model.dtype);
  message->set_takes_text(served.tokenizer.has_value());
  if (served.tokenizer) message->set_tokenizer(served.tokenizer->kind());
  if (model.start_token) message->set_start_token(*model.start_token);
  message->set_positions_max(model.positions_max);
}

}  // namespace

grpc::ByteBuffer Pack(const service::OpenResult& result, const Served& served) {
  v1::OpenSessionReply message;
  message.set_session_id(result.session.session_id);
  message.set_position(result.session.position);
  message.set_created(result.created);
  message.set_epoch(result.session.epoch);
  message.set_state_bytes(served.model.state_bytes);
  message.set_seed(result.session.seed);
  message.set_model(served.name);
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::SessionInfo& info, const Served& served) {
  v1::Session message;
  Fill(info, served, &message);
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::ListResult& result, const Served& served) {
  v1::ListSessionsReply message;
  for (const service::SessionInfo& info : result.sessions) {
    Fill(info, served, message.add_sessions());
  }
  if (result.more && !result.sessions.empty()) {
    message.set_next_page_token(result.sessions.back().session_id);
  }
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::CloseResult& result, const Served&) {
  v1::CloseSessionReply message;
  message.set_closed(result.closed);
  message.set_position(result.position);
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::AppendResult& result, const Served&) {
  v1::AppendReply message;
  Fill(result, &message);
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::ForkResult& result, const Served&) {
  v1::ForkReply message;
  message.set_session_id(result.session_id);
  message.set_position(result.position);
  message.set_epoch(result.epoch);
  message.set_duplicate(result.duplicate);
  return Serialize(message);
}

grpc::ByteBuffer Pack(const service::GenerateEvent& event) {
  v1::GenerateReply message;
  Fill(event, &message);
  return Serialize(message);
}

grpc::ByteBuffer PackItem(uint64_t item_id,
                          const service::AppendResult& result) {
  v1::StreamReply message;
  message.set_item_id(item_id);
  Fill(result, message.mutable_append());
  return Serialize(message);
}

grpc::ByteBuffer PackItem(uint64_t item_id,
                          const service::GenerateEvent& event) {
  v1::StreamReply message;
  message.set_item_id(item_id);
  Fill(event, message.mutable_generate());
  return Serialize(message);
}

grpc::ByteBuffer PackProgress(uint64_t item_id,
                              uint64_t applied_position,
                              uint64_t end_position) {
  v1::StreamReply message;
  message.set_item_id(item_id);
  message.mutable_progress()->set_applied_position(applied_position);
  message.mutable_progress()->set_end_position(end_position);
  return Serialize(message);
}

absl::StatusOr<grpc::ByteBuffer> AnswerGetModel(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(const v1::GetModelRequest message,
                        ParseMessage<v1::GetModelRequest>(wire));
  if (message.name().empty()) return MissingField("name");
  WEIR_RETURN_IF_ERROR(CheckModelName(message.name(), wire.served));
  v1::Model model;
  Fill(wire.served, &model);
  return Serialize(model);
}

absl::StatusOr<grpc::ByteBuffer> AnswerListModels(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(const v1::ListModelsRequest message,
                        ParseMessage<v1::ListModelsRequest>(wire));
  if (message.page_size() < 0) return BadPage("page_size", "is negative");
  if (!message.page_token().empty()) {
    return BadPage("page_token", "is not one that this server gave");
  }
  v1::ListModelsReply reply;
  Fill(wire.served, reply.add_models());
  return Serialize(reply);
}

absl::StatusOr<grpc::ByteBuffer> AnswerServerInfo(Wire& wire,
                                                  const Running& running) {
  WEIR_RETURN_IF_ERROR(ParseMessage<v1::GetServerInfoRequest>(wire).status());
  const Served& served = wire.served;
  v1::GetServerInfoReply reply;
  reply.set_version(kVersion);
  reply.set_revision(kRevision);
  reply.set_device(served.device);
  reply.set_model(served.name);
  SetDuration(running.uptime, reply.mutable_uptime());
  reply.set_draining(running.draining);
  reply.set_slots(static_cast<uint32_t>(running.service.slots));
  reply.set_slots_free(static_cast<uint32_t>(running.service.slots_free));
  reply.set_state_bytes(served.model.state_bytes);
  reply.set_sessions(static_cast<uint64_t>(running.service.sessions));
  for (service::Durability durability : served.durability) {
    reply.add_durability(FromDurability(durability));
  }
  reply.set_append_tokens_max(
      static_cast<uint32_t>(served.limits.append_tokens_max));
  reply.set_step_tokens_max(
      static_cast<uint32_t>(served.limits.step_tokens_max));
  reply.set_queue_max(static_cast<uint32_t>(served.limits.queue_max));
  return Serialize(reply);
}

}  // namespace weir::server
