// SPDX-License-Identifier: Apache-2.0
#include "client/generation.h"

#include <memory>
#include <optional>
#include <utility>

#include "client/errors.h"
#include "client/stall_guard.h"

namespace weir::client {
namespace {

class Generator {
 public:
  Generator(Client& client,
            v1::GenerateRequest request,
            const OnGenerated& on_generated)
      : client_(client),
        request_(std::move(request)),
        on_generated_(on_generated),
        backoff_(client.options().retry, absl::Now()) {
    if (request_.request_id().empty()) request_.set_request_id(NewId());
  }

  absl::StatusOr<GenerationEnd> Run() {
    while (true) {
      absl::Status status = Try();
      if (status.ok()) return end_;
      if (client_.cancellation().cancelled() ||
          !MayRetry(status, Repeat::kExactlyOnce)) {
        return status;
      }
      const absl::Duration wait = backoff_.Next(status, absl::Now());
      if (wait == absl::InfiniteDuration()) return status;
      if (!client_.cancellation().WaitFor(wait)) return status;
      if (begun_) request_.set_expected_position(end_.position);
      ++end_.resumes;
    }
  }

 private:
  absl::Status Try() {
    if (client_.cancellation().cancelled()) {
      return absl::CancelledError("interrupted");
    }
    grpc::ClientContext context;
    AddSessionHint(request_.session_id(), &context);
    const Cancellation::Call in_flight(&client_.cancellation(), &context);
    StallGuard guard(&context, client_.options().call_deadline);
    const auto reader = client_.sessions().Generate(&context, request_);
    absl::Status refused;
    v1::GenerateReply reply;
    while (refused.ok() && reader->Read(&reply)) {
      guard.Heard(/*armed=*/false);
      refused = Take(reply);
      guard.Heard();
    }
    if (!refused.ok()) context.TryCancel();
    absl::Status status = FromGrpc(reader->Finish());
    if (!refused.ok()) return refused;
    if (guard.stalled()) {
      return absl::DeadlineExceededError("the server went silent");
    }
    if (status.ok() && end_.finish_reason == v1::FINISH_REASON_UNSPECIFIED) {
      return absl::UnavailableError("the generation was cut off");
    }
    return status;
  }

  // Passes on what is new in a reply.
  absl::Status Take(v1::GenerateReply& reply) {
    const uint64_t tokens = reply.tokens_size();
    if (reply.position() < tokens) return OutOfStep(reply);
    const uint64_t start = reply.position() - tokens;
    if (!begun_) {
      begun_ = true;
      end_.begin = start;
      end_.position = start;
    }
    if (start > end_.position) return OutOfStep(reply);
    const int known =
        static_cast<int>(std::min<uint64_t>(tokens, end_.position - start));
    if (known > 0) {
      reply.mutable_tokens()->ExtractSubrange(0, known, nullptr);
      reply.mutable_log_probs()->ExtractSubrange(
          0, std::min(known, reply.log_probs_size()), nullptr);
      reply.clear_text();
    }
    if (reply.position() > end_.position) {
      end_.position = reply.position();
      backoff_.Reset(absl::Now());
    }
    if (reply.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      end_.finish_reason = reply.finish_reason();
      end_.stop_string = reply.stop_string();
      end_.max_tokens = reply.max_tokens();
    }
    if (reply.tokens_size() > 0 || !reply.text().empty()) on_generated_(reply);
    return absl::OkStatus();
  }

  absl::Status OutOfStep(const v1::GenerateReply& reply) const {
    return absl::InternalError(
        "a reply of " + std::to_string(reply.tokens_size()) +
        " tokens ends at position " + std::to_string(reply.position()) +
        ", the one before it at " + std::to_string(end_.position));
  }

  Client& client_;
  v1::GenerateRequest request_;
  const OnGenerated& on_generated_;
  Backoff backoff_;
  GenerationEnd end_;
  bool begun_ = false;
};

}  // namespace

absl::StatusOr<GenerationEnd> Generate(Client& client,
                                       v1::GenerateRequest request,
                                       const OnGenerated& on_generated) {
  return Generator(client, std::move(request), on_generated).Run();
}

}  // namespace weir::client
