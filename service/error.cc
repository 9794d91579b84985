// SPDX-License-Identifier: Apache-2.0
#include "service/error.h"

#include <algorithm>
#include <array>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace weir::service {
namespace {

using absl::StatusCode;

constexpr absl::Duration kNever = absl::ZeroDuration();
constexpr absl::Duration kSoon = absl::Milliseconds(100);
constexpr absl::Duration kLater = absl::Seconds(1);

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr StatusCode kPrecondition = StatusCode::kFailedPrecondition;
constexpr StatusCode kExhausted = StatusCode::kResourceExhausted;

constexpr std::array kReasons = {
    ReasonInfo{Reason::kBadId, "BAD_ID", kInvalid, kNever},
    ReasonInfo{Reason::kBadPage, "BAD_PAGE", kInvalid, kNever},
    ReasonInfo{Reason::kBadTtl, "BAD_TTL", kInvalid, kNever},
    ReasonInfo{Reason::kBadSampling, "BAD_SAMPLING", kInvalid, kNever},
    ReasonInfo{Reason::kBadValue, "BAD_VALUE", kInvalid, kNever},
    ReasonInfo{Reason::kMissingField, "MISSING_FIELD", kInvalid, kNever},
    ReasonInfo{
        Reason::kConflictingFields, "CONFLICTING_FIELDS", kInvalid, kNever},
    ReasonInfo{Reason::kMalformedProto, "MALFORMED_PROTO", kInvalid, kNever},
    ReasonInfo{
        Reason::kTruncatedMessage, "TRUNCATED_MESSAGE", kInvalid, kNever},
    ReasonInfo{
        Reason::kUnexpectedMessage, "UNEXPECTED_MESSAGE", kInvalid, kNever},
    ReasonInfo{
        Reason::kTokenOutOfVocab, "TOKEN_OUT_OF_VOCAB", kInvalid, kNever},
    ReasonInfo{Reason::kTooManyTokens, "TOO_MANY_TOKENS", kInvalid, kNever},
    ReasonInfo{Reason::kTextUnsupported, "TEXT_UNSUPPORTED", kInvalid, kNever},
    ReasonInfo{Reason::kSessionNotFound,
               "SESSION_NOT_FOUND",
               StatusCode::kNotFound,
               kNever},
    ReasonInfo{Reason::kSessionExpired,
               "SESSION_EXPIRED",
               StatusCode::kNotFound,
               kNever},
    ReasonInfo{Reason::kModelNotFound,
               "MODEL_NOT_FOUND",
               StatusCode::kNotFound,
               kNever},
    ReasonInfo{Reason::kSessionExists,
               "SESSION_EXISTS",
               StatusCode::kAlreadyExists,
               kNever},
    ReasonInfo{Reason::kPositionConflict,
               "POSITION_CONFLICT",
               StatusCode::kAborted,
               kNever},
    ReasonInfo{
        Reason::kPositionGap, "POSITION_GAP", StatusCode::kOutOfRange, kNever},
    ReasonInfo{Reason::kSessionLength,
               "SESSION_LENGTH",
               StatusCode::kOutOfRange,
               kNever},
    ReasonInfo{
        Reason::kSessionBusy, "SESSION_BUSY", StatusCode::kAborted, kSoon},
    ReasonInfo{Reason::kEmptySession, "EMPTY_SESSION", kPrecondition, kNever},
    ReasonInfo{Reason::kQuarantined, "QUARANTINED", kPrecondition, kNever},
    ReasonInfo{Reason::kDurabilityUnavailable,
               "DURABILITY_UNAVAILABLE",
               kPrecondition,
               kNever},
    ReasonInfo{Reason::kStatePoolExhausted,
               "STATE_POOL_EXHAUSTED",
               kExhausted,
               kLater},
    ReasonInfo{Reason::kLogFull, "LOG_FULL", kExhausted, kLater},
    ReasonInfo{Reason::kQueueFull, "QUEUE_FULL", kExhausted, kSoon},
    ReasonInfo{Reason::kSlowConsumer, "SLOW_CONSUMER", kExhausted, kNever},
    ReasonInfo{Reason::kDeadlineInQueue,
               "DEADLINE_IN_QUEUE",
               StatusCode::kDeadlineExceeded,
               kNever},
    ReasonInfo{Reason::kIdleStream,
               "IDLE_STREAM",
               StatusCode::kDeadlineExceeded,
               kNever},
    ReasonInfo{Reason::kCancelled, "CANCELLED", StatusCode::kCancelled, kNever},
    ReasonInfo{Reason::kServerDraining,
               "SERVER_DRAINING",
               StatusCode::kUnavailable,
               kLater},
    ReasonInfo{
        Reason::kNotBuilt, "NOT_BUILT", StatusCode::kUnimplemented, kNever},
    ReasonInfo{Reason::kUnknownMethod,
               "UNKNOWN_METHOD",
               StatusCode::kUnimplemented,
               kNever},
    ReasonInfo{Reason::kNonFiniteState,
               "NON_FINITE_STATE",
               StatusCode::kInternal,
               kNever},
    ReasonInfo{
        Reason::kDeviceFault, "DEVICE_FAULT", StatusCode::kInternal, kNever},
    ReasonInfo{
        Reason::kStoreFault, "STORE_FAULT", StatusCode::kInternal, kNever},
    ReasonInfo{Reason::kInternal, "INTERNAL", StatusCode::kInternal, kNever},
};

static_assert(kReasons.size() == static_cast<size_t>(Reason::kInternal) + 1);

constexpr bool InOrder() {
  for (size_t i = 0; i < kReasons.size(); ++i) {
    if (kReasons[i].reason != static_cast<Reason>(i)) return false;
  }
  return true;
}
static_assert(InOrder(), "Info() indexes the table by the enum");

constexpr std::string_view kReasonUrl = "weir.dev/reason";
constexpr std::string_view kValuePrefix = "weir.dev/value/";

absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

}  // namespace

std::span<const ReasonInfo> Reasons() { return kReasons; }

const ReasonInfo& Info(Reason reason) {
  const size_t index = static_cast<size_t>(reason);
  WEIR_CHECK(index < kReasons.size());
  return kReasons[index];
}

absl::Status Error(Reason reason,
                   std::string_view message,
                   const ErrorValues& values) {
  const ReasonInfo& info = Info(reason);
  absl::Status status(info.code, View(message));
  status.SetPayload(View(kReasonUrl), absl::Cord(View(info.name)));
  for (const auto& [key, value] : values) {
    status.SetPayload(std::string(kValuePrefix) + key, absl::Cord(value));
  }
  return status;
}

std::optional<Reason> ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(View(kReasonUrl));
  if (!payload.has_value()) return std::nullopt;
  const std::string name(*payload);
  for (const ReasonInfo& info : kReasons) {
    if (info.name == name) return info.reason;
  }
  return std::nullopt;
}

ErrorValues ValuesOf(const absl::Status& status) {
  ErrorValues values;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    const std::string_view key(url.data(), url.size());
    if (key.substr(0, kValuePrefix.size()) != kValuePrefix) return;
    values.emplace_back(std::string(key.substr(kValuePrefix.size())),
                        std::string(value));
  });
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace weir::service
