// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "server/convert.h"
#include "server/wire_message.h"
#include "service/error.h"
#include "weir/v1/sessions.pb.h"

namespace weir::server {
namespace {

using service::Reason;

constexpr size_t kMessageBytesMax = 1024;
constexpr size_t kValueBytesMax = 256;
constexpr size_t kValuesMax = 8;

// At most `bytes` of a text, cut between characters.
std::string Clip(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  size_t end = bytes;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status message;
  message.set_code(static_cast<int32_t>(status.code()));
  const absl::string_view text = status.message();
  message.set_message(
      Clip(std::string_view(text.data(), text.size()), kMessageBytesMax));
  const std::optional<Reason> reason = service::ReasonOf(status);
  if (!reason) return message;
  const service::ReasonInfo& row = service::Info(*reason);
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(row.name));
  info.set_domain("weir.dev");
  size_t values = 0;
  for (const auto& [key, value] : service::ValuesOf(status)) {
    if (++values > kValuesMax) break;
    (*info.mutable_metadata())[Clip(key, kValueBytesMax)] =
        Clip(value, kValueBytesMax);
  }
  message.add_details()->PackFrom(info);
  if (row.retry_after > absl::ZeroDuration()) {
    google::rpc::RetryInfo retry;
    SetDuration(row.retry_after, retry.mutable_retry_delay());
    message.add_details()->PackFrom(retry);
  }
  return message;
}

grpc::ByteBuffer PackItem(uint64_t item_id, const absl::Status& refusal) {
  WEIR_CHECK(!refusal.ok());
  v1::StreamReply message;
  message.set_item_id(item_id);
  *message.mutable_error() = ToRpcStatus(refusal);
  return Serialize(message);
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status details = ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      details.message(),
                      details.SerializeAsString());
}

}  // namespace weir::server
