// SPDX-License-Identifier: Apache-2.0
#include "client/errors.h"

#include <charconv>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"

namespace weir::client {
namespace {

constexpr char kErrorInfo[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";

absl::StatusCode ToCode(int code) {
  // Both libraries number the canonical codes alike; what is beyond them is
  // unknown to both.
  return code >= 0 && code <= 16 ? static_cast<absl::StatusCode>(code)
                                 : absl::StatusCode::kUnknown;
}

void AddDetails(const google::rpc::Status& from, absl::Status& to) {
  for (const google::protobuf::Any& detail : from.details()) {
    to.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
}

template <typename Detail>
std::optional<Detail> ReadPayload(const absl::Status& status,
                                  const char* type_url) {
  const auto payload = status.GetPayload(type_url);
  Detail detail;
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return detail;
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(ToCode(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    AddDetails(details, result);
  }
  return result;
}

absl::Status FromItem(const google::rpc::Status& status) {
  // An item that is answered by an error has failed, whatever the code says.
  const absl::StatusCode code =
      status.code() == 0 ? absl::StatusCode::kUnknown : ToCode(status.code());
  absl::Status result(code, status.message());
  AddDetails(status, result);
  return result;
}

std::string ReasonOf(const absl::Status& status) {
  const auto info = ReadPayload<google::rpc::ErrorInfo>(status, kErrorInfo);
  return info.has_value() ? info->reason() : std::string();
}

bool IsNotOpen(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return reason == "SESSION_NOT_FOUND" || reason == "SESSION_EXPIRED";
}

std::map<std::string, std::string> MetadataOf(const absl::Status& status) {
  const auto info = ReadPayload<google::rpc::ErrorInfo>(status, kErrorInfo);
  if (!info.has_value()) return {};
  return {info->metadata().begin(), info->metadata().end()};
}

std::optional<uint64_t> NumberOf(const absl::Status& status,
                                 std::string_view key) {
  const std::map<std::string, std::string> metadata = MetadataOf(status);
  const auto found = metadata.find(std::string(key));
  if (found == metadata.end()) return std::nullopt;
  uint64_t number = 0;
  const char* end = found->second.data() + found->second.size();
  const auto [stop, error] = std::from_chars(found->second.data(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto info = ReadPayload<google::rpc::RetryInfo>(status, kRetryInfo);
  if (!info.has_value()) return std::nullopt;
  return absl::Seconds(info->retry_delay().seconds()) +
         absl::Nanoseconds(info->retry_delay().nanos());
}

absl::Status Annotate(const absl::Status& status, std::string_view what) {
  if (status.ok()) return status;
  std::string message(what);
  message += ": ";
  message += std::string(status.message());
  absl::Status result(status.code(), message);
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& value) {
    result.SetPayload(type, value);
  });
  return result;
}

}  // namespace weir::client
