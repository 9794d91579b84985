// SPDX-License-Identifier: Apache-2.0
#include "server/convert.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/generation_text.h"
#include "server/wire_message.h"
#include "service/error.h"
#include "service/request_check.h"
#include "weir/v1/sessions.pb.h"

namespace weir::server {
namespace {

using service::Error;
using service::Reason;

constexpr size_t kStopStringsMax = 16;
constexpr size_t kStopStringBytesMax = 256;
constexpr int64_t kDurationSecondsMax = 315'576'000'000;  // as protobuf says

absl::Status BadEnum(std::string_view field, int value) {
  return Error(Reason::kBadValue,
               absl::StrCat(std::string(field), ": there is no value ", value),
               {{"field", std::string(field)}, {"value", absl::StrCat(value)}});
}

absl::StatusOr<service::Durability> ToDurability(int value) {
  switch (value) {
    case v1::DURABILITY_UNSPECIFIED:
    case v1::DURABILITY_APPLIED:
      return service::Durability::kApplied;
    case v1::DURABILITY_LOCAL:
      return service::Durability::kLocal;
    case v1::DURABILITY_SHARED:
      return service::Durability::kShared;
    default:
      return BadEnum("durability", value);
  }
}

absl::StatusOr<absl::Duration> ToDuration(
    const google::protobuf::Duration& duration) {
  const int64_t seconds = duration.seconds();
  const int32_t nanos = duration.nanos();
  const bool mixed = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
  if (seconds > kDurationSecondsMax || seconds < -kDurationSecondsMax ||
      nanos > 999'999'999 || nanos < -999'999'999 || mixed) {
    return Error(
        Reason::kBadTtl,
        absl::StrCat(
            "idle_timeout is no duration: ", seconds, " s and ", nanos, " ns"),
        {{"field", "idle_timeout"},
         {"seconds", absl::StrCat(seconds)},
         {"nanos", absl::StrCat(nanos)}});
  }
  return absl::Seconds(seconds) + absl::Nanoseconds(nanos);
}

// The ids of an append's text, which is not empty.
absl::StatusOr<std::vector<uint32_t>> ToTokens(const std::string& text,
                                               const Served& served) {
  if (!served.tokenizer) {
    return Error(Reason::kTextUnsupported,
                 "this model takes tokens only: it has no tokenizer",
                 {{"field", "text"}});
  }
  auto tokens = served.tokenizer->Encode(text);
  if (tokens.ok()) {
    WEIR_RETURN_IF_ERROR(service::CheckTokenCount(
        tokens->size(), served.limits.append_tokens_max));
    return tokens;
  }
  return Error(Reason::kBadValue,
               absl::StrCat("text: ", tokens.status().message()),
               {{"field", "text"}});
}

absl::StatusOr<service::AppendRequest> ToAppend(v1::AppendRequest& message,
                                                const Served& served) {
  if (message.session_id().empty()) return MissingField("session_id");
  if (!message.has_expected_position())
    return MissingField("expected_position");
  if (!message.text().empty() && message.tokens_size() > 0) {
    return Error(Reason::kConflictingFields,
                 "tokens and text are both set; send one of them",
                 {{"fields", "tokens,text"}});
  }
  if (message.text().empty()) {
    WEIR_RETURN_IF_ERROR(
        service::CheckTokenCount(static_cast<size_t>(message.tokens_size()),
                                 served.limits.append_tokens_max));
  }
  service::AppendRequest request;
  WEIR_ASSIGN_OR_RETURN(request.durability, ToDurability(message.durability()));
  request.session_id = std::move(*message.mutable_session_id());
  request.expected_position = message.expected_position();
  if (message.text().empty()) {
    request.tokens.assign(message.tokens().begin(), message.tokens().end());
  } else {
    WEIR_ASSIGN_OR_RETURN(request.tokens, ToTokens(message.text(), served));
  }
  request.want_scores = message.want_scores();
  return request;
}

absl::Status CheckStopStrings(const v1::GenerateRequest& message,
                              const Served& served) {
  const size_t count = static_cast<size_t>(message.stop_strings_size());
  if (count == 0) return absl::OkStatus();
  if (!served.tokenizer) {
    return Error(Reason::kTextUnsupported,
                 "this model has no text to look for stop strings in",
                 {{"field", "stop_strings"}});
  }
  if (count > kStopStringsMax) {
    return Error(Reason::kBadSampling,
                 absl::StrCat(count, " stop strings, limit ", kStopStringsMax),
                 {{"field", "stop_strings"},
                  {"count", absl::StrCat(count)},
                  {"limit", absl::StrCat(kStopStringsMax)}});
  }
  for (int i = 0; i < message.stop_strings_size(); ++i) {
    const size_t bytes = message.stop_strings(i).size();
    if (bytes >= 1 && bytes <= kStopStringBytesMax) continue;
    return Error(Reason::kBadSampling,
                 absl::StrCat("stop string ",
                              i,
                              " has ",
                              bytes,
                              " bytes; it must have 1 to ",
                              kStopStringBytesMax),
                 {{"field", "stop_strings"},
                  {"index", absl::StrCat(i)},
                  {"bytes", absl::StrCat(bytes)},
                  {"limit", absl::StrCat(kStopStringBytesMax)}});
  }
  return absl::OkStatus();
}

absl::StatusOr<service::GenerateRequest> ToGenerate(
    v1::GenerateRequest& message, const Served& served) {
  if (message.session_id().empty()) return MissingField("session_id");
  WEIR_RETURN_IF_ERROR(CheckStopStrings(message, served));
  service::GenerateRequest request;
  WEIR_ASSIGN_OR_RETURN(request.durability, ToDurability(message.durability()));
  request.session_id = std::move(*message.mutable_session_id());
  if (message.has_expected_position()) {
    request.expected_position = message.expected_position();
  }
  request.request_id = std::move(*message.mutable_request_id());
  request.max_tokens = message.max_tokens();
  service::SamplingRequest& sampling = request.sampling;
  if (message.has_temperature()) sampling.temperature = message.temperature();
  sampling.top_k = message.top_k();
  if (message.has_top_p()) sampling.top_p = message.top_p();
  if (message.has_min_p()) sampling.min_p = message.min_p();
  if (message.has_repetition_penalty()) {
    sampling.repetition_penalty = message.repetition_penalty();
  }
  if (message.has_seed()) sampling.seed = message.seed();
  request.stop_tokens.assign(message.stop_tokens().begin(),
                             message.stop_tokens().end());
  request.stop_strings.assign(message.stop_strings().begin(),
                              message.stop_strings().end());
  request.want_log_probs = message.want_log_probs();
  if (served.tokenizer) {
    request.text = std::make_unique<GenerationText>(*served.tokenizer);
  }
  return request;
}

}  // namespace

absl::StatusOr<service::OpenRequest> ParseOpen(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::OpenSessionRequest message,
                        ParseMessage<v1::OpenSessionRequest>(wire));
  if (message.model().empty()) return MissingField("model");
  WEIR_RETURN_IF_ERROR(CheckModelName(message.model(), wire.served));
  service::OpenRequest request;
  request.session_id = std::move(*message.mutable_session_id());
  if (message.has_seed()) request.seed = message.seed();
  if (message.has_idle_timeout()) {
    WEIR_ASSIGN_OR_RETURN(request.idle_timeout,
                          ToDuration(message.idle_timeout()));
  }
  return request;
}

absl::StatusOr<service::GetRequest> ParseGet(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::GetSessionRequest message,
                        ParseMessage<v1::GetSessionRequest>(wire));
  if (message.session_id().empty()) return MissingField("session_id");
  return service::GetRequest{std::move(*message.mutable_session_id())};
}

// A page token is the last id of the page before.
absl::StatusOr<service::ListRequest> ParseList(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::ListSessionsRequest message,
                        ParseMessage<v1::ListSessionsRequest>(wire));
  if (message.page_size() < 0) return BadPage("page_size", "is negative");
  if (!message.page_token().empty() &&
      !service::CheckSessionId(message.page_token()).ok()) {
    return BadPage("page_token", "is not one that this server gave");
  }
  return service::ListRequest{message.page_size(),
                              std::move(*message.mutable_page_token())};
}

absl::StatusOr<service::CloseRequest> ParseClose(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::CloseSessionRequest message,
                        ParseMessage<v1::CloseSessionRequest>(wire));
  if (message.session_id().empty()) return MissingField("session_id");
  WEIR_RETURN_IF_ERROR(service::CheckRequestId(message.request_id()));
  return service::CloseRequest{std::move(*message.mutable_session_id())};
}

absl::StatusOr<service::AppendRequest> ParseAppend(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::AppendRequest message,
                        ParseMessage<v1::AppendRequest>(wire));
  return ToAppend(message, wire.served);
}

absl::StatusOr<service::GenerateRequest> ParseGenerate(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::GenerateRequest message,
                        ParseMessage<v1::GenerateRequest>(wire));
  return ToGenerate(message, wire.served);
}

absl::StatusOr<service::ForkRequest> ParseFork(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::ForkRequest message,
                        ParseMessage<v1::ForkRequest>(wire));
  if (message.session_id().empty()) return MissingField("session_id");
  service::ForkRequest request;
  request.session_id = std::move(*message.mutable_session_id());
  request.new_session_id = std::move(*message.mutable_new_session_id());
  request.request_id = std::move(*message.mutable_request_id());
  if (message.has_position()) request.position = message.position();
  if (message.has_seed()) request.seed = message.seed();
  return request;
}

absl::StatusOr<StreamItem> ParseStreamItem(Wire& wire) {
  WEIR_ASSIGN_OR_RETURN(v1::StreamRequest message,
                        ParseMessage<v1::StreamRequest>(wire));
  StreamItem item{.item_id = message.item_id(),
                  .want_progress = message.want_progress(),
                  .request = MissingField("item")};
  const auto take = [&item](auto request) {
    if (request.ok()) {
      item.request = *std::move(request);
    } else {
      item.request = request.status();
    }
  };
  if (message.has_append()) {
    take(ToAppend(*message.mutable_append(), wire.served));
  } else if (message.has_generate()) {
    take(ToGenerate(*message.mutable_generate(), wire.served));
  }
  return item;
}

}  // namespace weir::server
