// SPDX-License-Identifier: Apache-2.0
#include "service/request_check.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/error.h"

namespace weir::service {
namespace {

constexpr size_t kSessionIdBytesMax = 128;
// Below it the softmax is that of the most probable token alone.
constexpr float kTemperatureMin = 1e-3f;
constexpr float kTemperatureMax = 100;
constexpr float kPenaltyMin = 0.01f;
constexpr float kPenaltyMax = 100;

bool IsIdByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

absl::Status BadSampling(const char* field, float value, const char* range) {
  const std::string text = absl::StrCat(value);
  return Error(Reason::kBadSampling,
               absl::StrCat(field, " is ", text, "; it must be ", range),
               {{"field", field}, {"value", text}, {"range", range}});
}

}  // namespace

absl::Status CheckSessionId(std::string_view id) {
  bool good = !id.empty() && id.size() <= kSessionIdBytesMax;
  for (const char c : id) good = good && IsIdByte(c);
  if (good) return absl::OkStatus();
  return Error(Reason::kBadId,
               absl::StrCat("a session id is 1 to ",
                            kSessionIdBytesMax,
                            " of [a-z0-9._-]; this one has ",
                            id.size(),
                            " bytes"),
               {{"limit", absl::StrCat(kSessionIdBytesMax)},
                {"bytes", absl::StrCat(id.size())}});
}

absl::Status CheckRequestId(std::string_view id) {
  if (id.size() <= kRequestIdBytesMax) return absl::OkStatus();
  return Error(
      Reason::kBadValue,
      absl::StrCat(
          "request_id has ", id.size(), " bytes, limit ", kRequestIdBytesMax),
      {{"field", "request_id"},
       {"bytes", absl::StrCat(id.size())},
       {"limit", absl::StrCat(kRequestIdBytesMax)}});
}

absl::Status CheckIdleTimeout(absl::Duration timeout, absl::Duration longest) {
  if (timeout >= absl::Seconds(1) && timeout <= longest) {
    return absl::OkStatus();
  }
  return Error(Reason::kBadTtl,
               absl::StrCat("idle_timeout is ",
                            absl::FormatDuration(timeout),
                            "; it must be 1s to ",
                            absl::FormatDuration(longest)),
               {{"value", absl::FormatDuration(timeout)},
                {"minimum", "1s"},
                {"limit", absl::FormatDuration(longest)}});
}

absl::Status CheckTokenCount(size_t tokens, int32_t tokens_max) {
  if (tokens <= static_cast<size_t>(tokens_max)) return absl::OkStatus();
  return Error(
      Reason::kTooManyTokens,
      absl::StrCat(tokens,
                   " tokens in one append, limit ",
                   tokens_max,
                   "; send them in several"),
      {{"tokens", absl::StrCat(tokens)}, {"limit", absl::StrCat(tokens_max)}});
}

absl::Status CheckTokens(std::span<const uint32_t> tokens,
                         int32_t tokens_max,
                         uint32_t vocabulary) {
  WEIR_RETURN_IF_ERROR(CheckTokenCount(tokens.size(), tokens_max));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < vocabulary) continue;
    return Error(Reason::kTokenOutOfVocab,
                 absl::StrCat("token ",
                              tokens[i],
                              " at index ",
                              i,
                              " is not below the vocabulary of ",
                              vocabulary),
                 {{"token", absl::StrCat(tokens[i])},
                  {"index", absl::StrCat(i)},
                  {"vocabulary", absl::StrCat(vocabulary)}});
  }
  return absl::OkStatus();
}

// Each comparison is written so that NaN fails it.
absl::Status CheckSampling(const SamplingRequest& sampling) {
  if (!(sampling.temperature >= 0 && sampling.temperature <= kTemperatureMax)) {
    return BadSampling("temperature", sampling.temperature, "0 to 100");
  }
  if (sampling.top_k < 0) {
    return BadSampling(
        "top_k", static_cast<float>(sampling.top_k), "0 or more");
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return BadSampling("top_p", sampling.top_p, "above 0 and at most 1");
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return BadSampling("min_p", sampling.min_p, "0 to 1");
  }
  if (!(sampling.repetition_penalty >= kPenaltyMin &&
        sampling.repetition_penalty <= kPenaltyMax)) {
    return BadSampling(
        "repetition_penalty", sampling.repetition_penalty, "0.01 to 100");
  }
  return absl::OkStatus();
}

absl::Status CheckStopTokens(std::span<const uint32_t> tokens,
                             uint32_t vocabulary) {
  if (tokens.size() > kStopTokensMax) {
    return Error(
        Reason::kBadSampling,
        absl::StrCat(tokens.size(), " stop tokens, limit ", kStopTokensMax),
        {{"field", "stop_tokens"},
         {"tokens", absl::StrCat(tokens.size())},
         {"limit", absl::StrCat(kStopTokensMax)}});
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < vocabulary) continue;
    return Error(Reason::kBadSampling,
                 absl::StrCat("stop token ",
                              tokens[i],
                              " at index ",
                              i,
                              " is not below the vocabulary of ",
                              vocabulary),
                 {{"field", "stop_tokens"},
                  {"token", absl::StrCat(tokens[i])},
                  {"index", absl::StrCat(i)},
                  {"vocabulary", absl::StrCat(vocabulary)}});
  }
  return absl::OkStatus();
}

engine::Sampling ToSampling(const SamplingRequest& request) {
  engine::Sampling sampling;
  sampling.temperature =
      request.temperature < kTemperatureMin ? 0 : request.temperature;
  sampling.top_k = request.top_k;
  sampling.top_p = request.top_p;
  sampling.min_p = request.min_p;
  sampling.repetition_penalty = request.repetition_penalty;
  return sampling;
}

}  // namespace weir::service
