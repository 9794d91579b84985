// SPDX-License-Identifier: Apache-2.0
#include "service/seams.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weir::service {

void ReadLog(Seams& seams,
             const SessionPtr& session,
             uint64_t position,
             uint64_t count,
             absl::AnyInvocable<void(absl::StatusOr<LogSlice>) &&> then) {
  auto post = [&seams,
               session,
               reservation = seams.queue->Reserve(),
               then = std::move(then)](absl::StatusOr<LogSlice> slice) mutable {
    reservation.Post([&seams,
                      session,
                      then = std::move(then),
                      slice = std::move(slice)]() mutable {
      if (session->closed) return;
      seams.table.MarkDirty(session);
      std::move(then)(std::move(slice));
    });
  };
  seams.store->Read(session->id, position, count, std::move(post));
}

SessionInfo InfoOf(const Session& session, absl::Duration now) {
  SessionInfo info;
  info.session_id = session.id;
  info.position = session.accepted;
  info.applied_position = session.applied;
  info.scored_tokens = session.scored_tokens;
  info.sum_log_prob = session.sum_log_prob;
  info.seed = session.seed;
  info.idle_timeout = session.idle_timeout;
  info.idle = now - session.last_request;
  info.generating = session.generation != nullptr;
  info.quarantined = session.quarantined;
  return info;
}

absl::Status NotFoundError() {
  return Error(Reason::kSessionNotFound, "no session of this id is open");
}

absl::Status NotFoundError(const Seams& seams, const std::string& session_id) {
  if (!seams.table.HasExpired(session_id)) return NotFoundError();
  return Error(Reason::kSessionExpired,
               "the session was closed after its idle timeout; open it again "
               "and append from 0");
}

absl::Status QuarantinedError(const Session& session) {
  return Error(Reason::kQuarantined,
               absl::StrCat("the session's state is lost; it was last good at ",
                            session.last_good),
               {{"lastGoodPosition", absl::StrCat(session.last_good)}});
}

absl::Status PositionError(Reason reason,
                           const Session& session,
                           uint64_t expected) {
  const char* what = reason == Reason::kPositionGap
                         ? " is ahead of the session's end "
                         : " is behind other tokens; the session's end is ";
  return Error(reason,
               absl::StrCat("position ", expected, what, session.accepted),
               {{"expectedPosition", absl::StrCat(expected)},
                {"position", absl::StrCat(session.accepted)}});
}

absl::Status LengthError(const Seams& seams,
                         const Session& session,
                         uint64_t expected) {
  const uint64_t longest = seams.limits.session_tokens_max;
  const char* whose = longest == seams.engine->model().positions_max
                          ? " that this model reads"
                          : " that this server keeps";
  return Error(Reason::kSessionLength,
               absl::StrCat("position ",
                            expected,
                            " and these tokens pass the longest session",
                            whose,
                            ", ",
                            longest,
                            " tokens; the session's end is ",
                            session.accepted),
               {{"expectedPosition", absl::StrCat(expected)},
                {"longest", absl::StrCat(longest)},
                {"position", absl::StrCat(session.accepted)}});
}

absl::Status StoreError(const absl::Status& cause) {
  return Error(Reason::kStoreFault,
               absl::StrCat("the log could not be kept: ", cause.message()));
}

absl::Status DrainingError() {
  return Error(Reason::kServerDraining, "the server is stopping");
}

absl::Status CheckDurability(const Store& store, Durability level) {
  if (store.Supports(level)) return absl::OkStatus();
  const char* name = level == Durability::kLocal    ? "LOCAL"
                     : level == Durability::kShared ? "SHARED"
                                                    : "APPLIED";
  return Error(Reason::kDurabilityUnavailable,
               absl::StrCat("this server has no store for ", name),
               {{"durability", name}});
}

absl::StatusOr<int32_t> AcquireSlot(Seams& seams) {
  const absl::StatusOr<int32_t> slot = seams.engine->AcquireSlot();
  if (slot.ok()) return *slot;
  if (slot.status().code() != absl::StatusCode::kResourceExhausted) {
    return Error(Reason::kDeviceFault,
                 absl::StrCat("no slot: ", slot.status().message()));
  }
  const int32_t slots = seams.engine->slots();
  return Error(Reason::kStatePoolExhausted,
               absl::StrCat("all ", slots, " slots are held; close a session"),
               {{"limit", absl::StrCat(slots)}});
}

}  // namespace weir::service
