// SPDX-License-Identifier: Apache-2.0
//
// What makes a request wrong in any state of its session.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "service/types.h"

namespace weir::service {

inline constexpr size_t kRequestIdBytesMax = 128;
inline constexpr size_t kStopTokensMax = 64;
inline constexpr int32_t kPageSizeDefault = 100;
inline constexpr int32_t kPageSizeMax = 1000;

// BAD_ID unless 1 to 128 of [a-z0-9._-].
absl::Status CheckSessionId(std::string_view id);
// BAD_VALUE for more than 128 bytes.
absl::Status CheckRequestId(std::string_view id);
// BAD_TTL unless 1 s to `longest`.
absl::Status CheckIdleTimeout(absl::Duration timeout, absl::Duration longest);
// TOO_MANY_TOKENS. Of its own, so that tokens are counted before they are
// copied.
absl::Status CheckTokenCount(size_t tokens, int32_t tokens_max);
// TOO_MANY_TOKENS, TOKEN_OUT_OF_VOCAB with the first index.
absl::Status CheckTokens(std::span<const uint32_t> tokens,
                         int32_t tokens_max,
                         uint32_t vocabulary);
// BAD_SAMPLING.
absl::Status CheckSampling(const SamplingRequest& sampling);
absl::Status CheckStopTokens(std::span<const uint32_t> tokens,
                             uint32_t vocabulary);

// The sampling as the engine takes it; seed, position and recent tokens are
// the caller's to fill. REQUIRES: CheckSampling is OK.
engine::Sampling ToSampling(const SamplingRequest& request);

}  // namespace weir::service
