// SPDX-License-Identifier: Apache-2.0
#include "client/stream_append.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "client/errors.h"
#include "client/stall_guard.h"

namespace weir::client {
namespace {

using Wire = grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamReply>;

// The reading half of a stream: a thread that reads and a queue, which the
// window of unanswered appends bounds. It tells the guard of each reply itself:
// a write may wait for long while the server works and says so.
class ReplyQueue {
 public:
  ReplyQueue(Wire* wire, StallGuard* guard)
      : wire_(wire), guard_(guard), thread_([this] { Read(); }) {}
  // The stream must have ended or been cancelled.
  ~ReplyQueue() { thread_.join(); }
  ReplyQueue(const ReplyQueue&) = delete;
  ReplyQueue& operator=(const ReplyQueue&) = delete;

  // Takes a reply if there is one.
  bool TryPop(v1::StreamReply* reply) {
    absl::MutexLock lock(&mutex_);
    return PopLocked(reply);
  }
  // Waits for a reply; false: the stream has ended and all were taken.
  bool Pop(v1::StreamReply* reply) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &ReplyQueue::Ready));
    return PopLocked(reply);
  }
  bool ended() {
    absl::MutexLock lock(&mutex_);
    return ended_ && replies_.empty();
  }

 private:
  bool Ready() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || !replies_.empty();
  }
  bool PopLocked(v1::StreamReply* reply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (replies_.empty()) return false;
    *reply = std::move(replies_.front());
    replies_.pop_front();
    return true;
  }
  void Read() {
    v1::StreamReply reply;
    while (wire_->Read(&reply)) {
      guard_->Overheard();
      absl::MutexLock lock(&mutex_);
      replies_.push_back(std::move(reply));
    }
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }

  Wire* const wire_;
  StallGuard* const guard_;
  absl::Mutex mutex_;
  std::deque<v1::StreamReply> replies_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

class Appender {
 public:
  Appender(Client& client,
           std::string_view session_id,
           uint64_t position,
           const StreamAppendOptions& options,
           const TokenSource& source,
           const OnAppended& on_appended)
      : client_(client),
        session_id_(session_id),
        options_(options),
        source_(source),
        on_appended_(on_appended),
        backoff_(client.options().retry, absl::Now()),
        room_(std::max<uint32_t>(1, options.append_tokens)),
        end_(position) {
    totals_.position = position;
  }

  absl::StatusOr<StreamTotals> Run() {
    while (true) {
      absl::Status status = RunStream();
      if (status.ok() && source_ended_ && unanswered_.empty()) return totals_;
      if (client_.cancellation().cancelled()) {
        return absl::CancelledError("interrupted");
      }
      if (!status.ok()) WEIR_RETURN_IF_ERROR(PrepareResume(status));
    }
  }

 private:
  // One append that has been read from the source and not been answered.
  struct Item {
    uint64_t start = 0;
    std::vector<uint32_t> tokens;
    uint64_t end() const { return start + tokens.size(); }
  };

  // Reads the next append from the source, if it has one by now.
  absl::Status ReadSource() {
    absl::StatusOr<TokenRead> read = source_(std::span<uint32_t>(room_));
    if (!read.ok()) {
      source_failed_ = true;
      return read.status();
    }
    source_ended_ = read->end;
    if (read->tokens == 0) return absl::OkStatus();
    // While nothing was due, no time was lost to failures.
    if (unanswered_.empty()) backoff_.Reset(absl::Now());
    Item item{.start = end_,
              .tokens = {room_.begin(), room_.begin() + read->tokens}};
    end_ = item.end();
    unanswered_.push_back(std::move(item));
    return absl::OkStatus();
  }

  // Opens a stream and works it until everything is answered (OK), or it
  // breaks. A stream is opened only once there is something to send.
  absl::Status RunStream() {
    while (unanswered_.empty()) {
      if (source_ended_) return absl::OkStatus();
      if (client_.cancellation().cancelled()) {
        return absl::CancelledError("interrupted");
      }
      WEIR_RETURN_IF_ERROR(ReadSource());
    }
    at_end_ = false;
    grpc::ClientContext context;
    AddSessionHint(session_id_, &context);
    const Cancellation::Call in_flight(&client_.cancellation(), &context);
    StallGuard guard(&context, client_.options().call_deadline);
    const std::unique_ptr<Wire> wire = client_.sessions().Stream(&context);
    absl::Status status;
    {
      ReplyQueue replies(wire.get(), &guard);
      status = Pump(*wire, replies, guard);
      guard.Heard();
      if (status.ok() && !replies.ended()) {
        wire->WritesDone();
      } else {
        context.TryCancel();
      }
      v1::StreamReply rest;
      while (replies.Pop(&rest)) {
      }
    }
    const absl::Status end = FromGrpc(wire->Finish());
    if (!status.ok()) return status;
    // A stream that breaks while nothing is unanswered has lost nothing.
    if (unanswered_.empty()) return absl::OkStatus();
    return guard.stalled()
               ? absl::DeadlineExceededError("the server went silent")
               : Broken(end);
  }

  static absl::Status Broken(const absl::Status& end) {
    return end.ok() ? absl::UnavailableError("the stream was cut off") : end;
  }

  // Sends and takes answers until all is answered or the stream has ended;
  // an error if an item or the source failed.
  absl::Status Pump(Wire& wire, ReplyQueue& replies, StallGuard& guard) {
    size_t sent = 0;
    v1::StreamReply reply;
    while (true) {
      while (replies.TryPop(&reply)) {
        WEIR_RETURN_IF_ERROR(Take(reply, guard, &sent));
      }
      if (replies.ended()) return absl::OkStatus();
      const size_t limit = at_end_ ? std::max(1, options_.window) : 1;
      if (sent < std::min(limit, unanswered_.size())) {
        if (!Send(wire, unanswered_[sent])) return WaitForEnd(replies, guard);
        guard.Heard();
        ++sent;
      } else if (!source_ended_ && unanswered_.size() < limit) {
        WEIR_RETURN_IF_ERROR(ReadSource());
      } else if (unanswered_.empty()) {
        return absl::OkStatus();
      } else if (replies.Pop(&reply)) {
        WEIR_RETURN_IF_ERROR(Take(reply, guard, &sent));
      }
    }
  }

  // After a failed write: what was answered before still counts.
  absl::Status WaitForEnd(ReplyQueue& replies, StallGuard& guard) {
    size_t sent = unanswered_.size();
    v1::StreamReply reply;
    while (replies.Pop(&reply)) {
      WEIR_RETURN_IF_ERROR(Take(reply, guard, &sent));
    }
    return absl::OkStatus();
  }

  bool Send(Wire& wire, const Item& item) {
    v1::StreamRequest request;
    request.set_item_id(item.start);
    request.set_want_progress(true);
    v1::AppendRequest* append = request.mutable_append();
    append->set_session_id(session_id_);
    append->set_expected_position(item.start);
    append->mutable_tokens()->Add(item.tokens.begin(), item.tokens.end());
    append->set_want_scores(options_.want_scores);
    append->set_durability(options_.durability);
    return wire.Write(request);
  }

  absl::Status Take(const v1::StreamReply& reply,
                    StallGuard& guard,
                    size_t* sent) {
    if (reply.event_case() == v1::StreamReply::kError) {
      return FromItem(reply.error());
    }
    guard.Heard();
    NoteApplied(reply.progress().applied_position());
    if (reply.event_case() != v1::StreamReply::kAppend) return absl::OkStatus();
    if (unanswered_.empty() || reply.item_id() != unanswered_.front().start) {
      return absl::InternalError("an answer came out of order");
    }
    --*sent;
    at_end_ = !reply.append().duplicate();
    guard.Heard(/*armed=*/false);
    Answered(reply.append());
    guard.Heard(/*armed=*/!unanswered_.empty());
    return absl::OkStatus();
  }

  // Counts the first unanswered append as applied.
  void Answered(const v1::AppendReply& reply) {
    const Item item = std::move(unanswered_.front());
    unanswered_.pop_front();
    totals_.position = item.end();
    totals_.tokens += item.tokens.size();
    totals_.duplicate_tokens += reply.duplicate_tokens();
    for (const float score : reply.scores()) {
      if (std::isnan(score)) continue;
      ++totals_.scored_tokens;
      totals_.sum_log_prob += score;
    }
    NoteApplied(totals_.position);
    on_appended_({.start = item.start,
                  .tokens = item.tokens.size(),
                  .scores = {reply.scores().data(),
                             static_cast<size_t>(reply.scores_size())}},
                 totals_);
  }

  // The state reaches so far. A server that gets on is not failing, however
  // long an append takes.
  void NoteApplied(uint64_t position) {
    if (position <= applied_) return;
    applied_ = position;
    backoff_.Reset(absl::Now());
  }

  // After a stream broke with `status`: waits, and finds where to go on. A
  // server that cannot say it yet is asked again like one that broke again.
  absl::Status PrepareResume(absl::Status status) {
    absl::StatusOr<v1::Session> session = status;
    while (!session.ok()) {
      status = session.status();
      if (IsNotOpen(status)) {
        return Annotate(status,
                        "session " + session_id_ + " is gone, which was at " +
                            std::to_string(totals_.position));
      }
      if (source_failed_ || !MayRetry(status, Repeat::kExactlyOnce)) {
        return status;
      }
      const absl::Duration wait = backoff_.Next(status, absl::Now());
      if (wait == absl::InfiniteDuration()) return status;
      if (!client_.cancellation().WaitFor(wait)) {
        return absl::CancelledError("interrupted");
      }
      session = client_.GetSession(session_id_);
    }
    ++totals_.resumes;
    return GoOnFrom(*session);
  }

  absl::Status GoOnFrom(const v1::Session& session) {
    if (session.position() < totals_.position) {
      return absl::DataLossError("session " + session_id_ + " is at position " +
                                 std::to_string(session.position()) + ", but " +
                                 std::to_string(totals_.position) +
                                 " tokens had been answered");
    }
    // An append that is sent again gets no progress while it waits.
    NoteApplied(session.applied_position());
    return absl::OkStatus();
  }

  Client& client_;
  const std::string session_id_;
  const StreamAppendOptions options_;
  const TokenSource& source_;
  const OnAppended& on_appended_;
  Backoff backoff_;
  std::vector<uint32_t> room_;
  std::deque<Item> unanswered_;  // in order of their positions
  uint64_t end_;                 // of the last item that was read
  uint64_t applied_ = 0;         // the furthest that is known of
  // Whether the last answer on this stream was about new tokens. Before that
  // appends go one by one: if one that lies in the log conflicts with it, the
  // next one could begin just at the log's end, and be applied.
  bool at_end_ = false;
  bool source_ended_ = false;
  bool source_failed_ = false;
  StreamTotals totals_;
};

}  // namespace

absl::StatusOr<StreamTotals> StreamAppend(Client& client,
                                          std::string_view session_id,
                                          uint64_t position,
                                          const StreamAppendOptions& options,
                                          const TokenSource& source,
                                          const OnAppended& on_appended) {
  return Appender(client, session_id, position, options, source, on_appended)
      .Run();
}

}  // namespace weir::client
