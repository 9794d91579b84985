// SPDX-License-Identifier: Apache-2.0
//
// Every refusal of the service: one reason, one code, one table. The reason
// and its values travel in the payloads of an absl::Status.
//
// Threads: pure functions.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace weir::service {

enum class Reason {
  // The request is wrong in any state.
  kBadId,
  kBadPage,
  kBadTtl,
  kBadSampling,
  kBadValue,
  kMissingField,
  kConflictingFields,
  kMalformedProto,
  kTruncatedMessage,
  kUnexpectedMessage,
  kTokenOutOfVocab,
  kTooManyTokens,
  kTextUnsupported,
  // The request does not fit the state.
  kSessionNotFound,
  kSessionExpired,
  kModelNotFound,
  kSessionExists,
  kPositionConflict,
  kPositionGap,
  kSessionLength,
  kSessionBusy,
  kEmptySession,
  kQuarantined,
  kDurabilityUnavailable,
  // No room or no time.
  kStatePoolExhausted,
  kLogFull,
  kQueueFull,
  kSlowConsumer,
  kDeadlineInQueue,
  kIdleStream,
  kCancelled,
  kServerDraining,
  // Not this server, or a fault of ours.
  kNotBuilt,
  kUnknownMethod,
  kNonFiniteState,
  kDeviceFault,
  kStoreFault,
  kInternal,
};

struct ReasonInfo {
  Reason reason;
  std::string_view name;  // as in ErrorInfo.reason
  absl::StatusCode code;
  // How long to wait before trying again; zero: trying again does not help.
  absl::Duration retry_after;
};

// All reasons, in the order of the enum.
std::span<const ReasonInfo> Reasons();
const ReasonInfo& Info(Reason reason);

// One value that a message names: key in lowerCamelCase, value as text.
using ErrorValues = std::vector<std::pair<std::string, std::string>>;

// A refusal. `message` says what, the limit and what to do; every number in it
// stands in `values` too.
absl::Status Error(Reason reason,
                   std::string_view message,
                   const ErrorValues& values = {});

// The reason of a Status made by Error; nullopt for any other.
std::optional<Reason> ReasonOf(const absl::Status& status);
// Its values, in the order of their keys.
ErrorValues ValuesOf(const absl::Status& status);

}  // namespace weir::service
