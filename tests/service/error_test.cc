// SPDX-License-Identifier: Apache-2.0
#include "service/error.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weir::service {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::Pair;

struct Wanted {
  Reason reason;
  const char* name;
  StatusCode code;
};

// The contract, written down a second time.
const Wanted kWanted[] = {
    {Reason::kBadId, "BAD_ID", StatusCode::kInvalidArgument},
    {Reason::kBadPage, "BAD_PAGE", StatusCode::kInvalidArgument},
    {Reason::kBadTtl, "BAD_TTL", StatusCode::kInvalidArgument},
    {Reason::kBadSampling, "BAD_SAMPLING", StatusCode::kInvalidArgument},
    {Reason::kBadValue, "BAD_VALUE", StatusCode::kInvalidArgument},
    {Reason::kMissingField, "MISSING_FIELD", StatusCode::kInvalidArgument},
    {Reason::kConflictingFields,
     "CONFLICTING_FIELDS",
     StatusCode::kInvalidArgument},
    {Reason::kMalformedProto, "MALFORMED_PROTO", StatusCode::kInvalidArgument},
    {Reason::kTruncatedMessage,
     "TRUNCATED_MESSAGE",
     StatusCode::kInvalidArgument},
    {Reason::kUnexpectedMessage,
     "UNEXPECTED_MESSAGE",
     StatusCode::kInvalidArgument},
    {Reason::kTokenOutOfVocab,
     "TOKEN_OUT_OF_VOCAB",
     StatusCode::kInvalidArgument},
    {Reason::kTooManyTokens, "TOO_MANY_TOKENS", StatusCode::kInvalidArgument},
    {Reason::kTextUnsupported,
     "TEXT_UNSUPPORTED",
     StatusCode::kInvalidArgument},
    {Reason::kSessionNotFound, "SESSION_NOT_FOUND", StatusCode::kNotFound},
    {Reason::kSessionExpired, "SESSION_EXPIRED", StatusCode::kNotFound},
    {Reason::kModelNotFound, "MODEL_NOT_FOUND", StatusCode::kNotFound},
    {Reason::kSessionExists, "SESSION_EXISTS", StatusCode::kAlreadyExists},
    {Reason::kPositionConflict, "POSITION_CONFLICT", StatusCode::kAborted},
    {Reason::kPositionGap, "POSITION_GAP", StatusCode::kOutOfRange},
    {Reason::kSessionLength, "SESSION_LENGTH", StatusCode::kOutOfRange},
    {Reason::kSessionBusy, "SESSION_BUSY", StatusCode::kAborted},
    {Reason::kEmptySession, "EMPTY_SESSION", StatusCode::kFailedPrecondition},
    {Reason::kQuarantined, "QUARANTINED", StatusCode::kFailedPrecondition},
    {Reason::kDurabilityUnavailable,
     "DURABILITY_UNAVAILABLE",
     StatusCode::kFailedPrecondition},
    {Reason::kStatePoolExhausted,
     "STATE_POOL_EXHAUSTED",
     StatusCode::kResourceExhausted},
    {Reason::kLogFull, "LOG_FULL", StatusCode::kResourceExhausted},
    {Reason::kQueueFull, "QUEUE_FULL", StatusCode::kResourceExhausted},
    {Reason::kSlowConsumer, "SLOW_CONSUMER", StatusCode::kResourceExhausted},
    {Reason::kDeadlineInQueue,
     "DEADLINE_IN_QUEUE",
     StatusCode::kDeadlineExceeded},
    {Reason::kIdleStream, "IDLE_STREAM", StatusCode::kDeadlineExceeded},
    {Reason::kCancelled, "CANCELLED", StatusCode::kCancelled},
    {Reason::kServerDraining, "SERVER_DRAINING", StatusCode::kUnavailable},
    {Reason::kNotBuilt, "NOT_BUILT", StatusCode::kUnimplemented},
    {Reason::kUnknownMethod, "UNKNOWN_METHOD", StatusCode::kUnimplemented},
    {Reason::kNonFiniteState, "NON_FINITE_STATE", StatusCode::kInternal},
    {Reason::kDeviceFault, "DEVICE_FAULT", StatusCode::kInternal},
    {Reason::kStoreFault, "STORE_FAULT", StatusCode::kInternal},
    {Reason::kInternal, "INTERNAL", StatusCode::kInternal},
};

TEST(ErrorTest, TheTableHoldsEveryReasonAsTheContractNamesIt) {
  ASSERT_EQ(Reasons().size(), std::size(kWanted));
  for (const Wanted& wanted : kWanted) {
    const ReasonInfo& info = Info(wanted.reason);
    EXPECT_EQ(info.reason, wanted.reason);
    EXPECT_EQ(info.name, wanted.name);
    EXPECT_EQ(info.code, wanted.code) << wanted.name;
  }
}

TEST(ErrorTest, WaitingHelpsForTheseAlone) {
  std::set<Reason> retried;
  for (const ReasonInfo& info : Reasons()) {
    if (info.retry_after > absl::ZeroDuration()) retried.insert(info.reason);
  }
  EXPECT_EQ(retried,
            (std::set<Reason>{Reason::kQueueFull,
                              Reason::kStatePoolExhausted,
                              Reason::kLogFull,
                              Reason::kServerDraining,
                              Reason::kSessionBusy}));
}

TEST(ErrorTest, ReasonAndValuesTravelInTheStatus) {
  const absl::Status status =
      Error(Reason::kPositionGap,
            "position 9 is ahead of 7",
            {{"position", "7"}, {"expectedPosition", "9"}});

  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(status), Reason::kPositionGap);
  EXPECT_THAT(
      ValuesOf(status),
      ElementsAre(Pair("expectedPosition", "9"), Pair("position", "7")));
}

TEST(ErrorTest, OtherStatusesHaveNoReason) {
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), std::nullopt);
  EXPECT_EQ(ReasonOf(absl::OkStatus()), std::nullopt);
  EXPECT_TRUE(ValuesOf(absl::InternalError("x")).empty());
}

}  // namespace
}  // namespace weir::service
