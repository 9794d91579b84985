// SPDX-License-Identifier: Apache-2.0
#include "server/stream_call.h"

#include <utility>
#include <variant>

namespace weir::server {
namespace {

using service::Error;
using service::Reason;

// Items that run, and answers that have not left.
constexpr size_t kInFlightMax = 64;
// The bytes of their answers: sixteen of the largest.
constexpr size_t kAnswerBytesMax = size_t{4} << 20;

// What an item's answer takes, nearly: scores are what makes one large. The
// events of a generation are bounded by Limits::unsent_events_max.
size_t AnswerBytes(const StreamItem& item) {
  const auto* append = std::get_if<service::AppendRequest>(&item.request);
  return append != nullptr && append->want_scores
             ? append->tokens.size() * sizeof(float)
             : 0;
}

}  // namespace

void StreamCall::Start() {
  {
    const std::lock_guard lock(items_mutex_);
    reading_ = true;
  }
  Read(&incoming_);
}

void StreamCall::OnReadDone(bool ok) {
  if (!ok && Broken()) return;
  absl::Status malformed;
  std::unique_ptr<StreamItem> item;
  if (ok) {
    CountReceived();
    const MessageView view(incoming_);
    Wire wire{view.bytes(), host().served};
    absl::StatusOr<StreamItem> parsed = ParseStreamItem(wire);
    host().metrics->OnUnknownFields(wire.unknown_fields);
    malformed = parsed.status();
    if (parsed.ok()) item = std::make_unique<StreamItem>(*std::move(parsed));
    if (!malformed.ok()) CountRefusal(malformed);
  }
  {
    const std::lock_guard lock(items_mutex_);
    reading_ = false;
    if (item != nullptr) {
      waiting_.push_back(std::move(*item));
    } else {
      read_all_ = true;
      end_ = malformed;
    }
  }
  Advance();
}

void StreamCall::OnStopping() {
  {
    const std::lock_guard lock(items_mutex_);
    stopping_ = true;
  }
  Advance();
}

void StreamCall::Advance() {
  {
    const std::lock_guard lock(items_mutex_);
    again_ = true;
    if (advancing_) return;
    advancing_ = true;
  }
  for (;;) {
    {
      const std::lock_guard lock(items_mutex_);
      if (!again_) {
        advancing_ = false;
        return;
      }
      again_ = false;
    }
    while (StartNext()) {
    }
    ReadOrEnd();
  }
}

bool StreamCall::StartNext() {
  StreamItem item;
  size_t answer_bytes = 0;
  {
    const std::lock_guard lock(items_mutex_);
    if (waiting_.empty() || generating_) return false;
    const bool generate = std::holds_alternative<service::GenerateRequest>(
        waiting_.front().request);
    if (generate && running_ > 0) return false;
    item = std::move(waiting_.front());
    waiting_.pop_front();
    answer_bytes = AnswerBytes(item);
    ++running_;
    running_bytes_ += answer_bytes;
    generating_ = generate;
  }
  StartItem(std::move(item), answer_bytes);
  return true;
}

void StreamCall::ReadOrEnd() {
  const Unsent unsent = this->unsent();
  bool stopping = false;
  absl::Status end;
  {
    const std::lock_guard lock(items_mutex_);
    const size_t running = waiting_.size() + static_cast<size_t>(running_);
    if (running == 0 && read_all_) {
      end = end_;
    } else if (running == 0 && stopping_) {
      stopping = true;
      end = Error(Reason::kServerDraining,
                  "the server is stopping; go on with another one");
    } else {
      // A parked item says that the client is ahead: it may wait too.
      if (read_all_ || reading_ || !waiting_.empty() ||
          running + unsent.messages >= kInFlightMax ||
          running_bytes_ + unsent.bytes >= kAnswerBytesMax) {
        return;
      }
      reading_ = true;
      Read(&incoming_);
      return;
    }
  }
  // A message that ended the reading has been counted.
  stopping ? Refuse(end) : Close(end);
}

void StreamCall::StartItem(StreamItem item, size_t answer_bytes) {
  if (auto* append = std::get_if<service::AppendRequest>(&item.request)) {
    StartAppend(
        item.item_id, item.want_progress, std::move(*append), answer_bytes);
  } else if (auto* generate =
                 std::get_if<service::GenerateRequest>(&item.request)) {
    StartGenerate(item.item_id, std::move(*generate));
  } else {
    const absl::Status& refusal = std::get<absl::Status>(item.request);
    CountRefusal(refusal);
    Answer(PackItem(item.item_id, refusal), false, answer_bytes);
  }
}

void StreamCall::StartAppend(uint64_t item_id,
                             bool want_progress,
                             service::AppendRequest request,
                             size_t answer_bytes) {
  const std::shared_ptr<StreamCall> self = Self();
  if (want_progress) {
    request.on_progress = [self, item_id](uint64_t applied, uint64_t end) {
      // Progress is news, not an answer: a slow reader misses some.
      if (self->unsent().messages >= kInFlightMax) return;
      self->Send(PackProgress(item_id, applied, end));
    };
  }
  const auto answer = [self, item_id, answer_bytes](
                          const absl::StatusOr<service::AppendResult>& result) {
    self->Answer(result.ok() ? PackItem(item_id, *result)
                             : PackItem(item_id, result.status()),
                 false,
                 answer_bytes);
  };
  host().service->Append(std::move(request), ServiceContext(), answer);
}

void StreamCall::StartGenerate(uint64_t item_id,
                               service::GenerateRequest request) {
  const std::shared_ptr<StreamCall> self = Self();
  const auto last = std::make_shared<grpc::ByteBuffer>();
  request.on_event =
      [self, item_id, last](const service::GenerateEvent& event) {
        grpc::ByteBuffer message = PackItem(item_id, event);
        if (event.finish == service::FinishReason::kNone) {
          self->Send(message, true);
        } else {
          last->Swap(&message);
        }
      };
  host().service->Generate(
      std::move(request),
      ServiceContext(),
      [self, item_id, last](
          const absl::StatusOr<service::GenerateResult>& result) {
        if (service::ReasonOf(result.status()) == Reason::kSlowConsumer) {
          return self->Abort(result.status());
        }
        self->Answer(
            result.ok() ? *last : PackItem(item_id, result.status()), true, 0);
      });
}

// Comes on the step thread too, where the service must not be called: what may
// start now starts when this message has been sent.
void StreamCall::Answer(const grpc::ByteBuffer& message,
                        bool generated,
                        size_t answer_bytes) {
  // Under one lock, or the call could be ended between the two.
  const std::lock_guard lock(items_mutex_);
  --running_;
  running_bytes_ -= answer_bytes;
  if (generated) generating_ = false;
  Send(message);
}

}  // namespace weir::server
