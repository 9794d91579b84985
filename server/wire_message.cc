// SPDX-License-Identifier: Apache-2.0
#include "server/wire_message.h"

#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpc/support/log.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "service/error.h"

namespace weir::server {
namespace {

using service::Error;
using service::Reason;

// Counts the fields, of the message and of those in it, that this build does
// not know. False: one of them is a group, which no message of ours has and no
// proto3 writer makes.
bool CountUnknown(const google::protobuf::Message& message, int64_t& count) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown =
      reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (unknown.field(i).type() == google::protobuf::UnknownField::TYPE_GROUP) {
      return false;
    }
  }
  count += unknown.field_count();
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = type.field(i);
    if (field->message_type() == nullptr || field->is_repeated() ||
        !reflection.HasField(message, field)) {
      continue;
    }
    if (!CountUnknown(reflection.GetMessage(message, field), count)) {
      return false;
    }
  }
  return true;
}

}  // namespace

absl::Status ParseTo(Wire& wire, google::protobuf::Message& message) {
  if (wire.bytes.size() <= std::numeric_limits<int32_t>::max() &&
      message.ParseFromArray(wire.bytes.data(),
                             static_cast<int>(wire.bytes.size())) &&
      CountUnknown(message, wire.unknown_fields)) {
    return absl::OkStatus();
  }
  const std::string& name = message.GetDescriptor()->full_name();
  return Error(Reason::kMalformedProto,
               absl::StrCat("the request is no valid ", name),
               {{"message", name}});
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  const size_t bytes = message.ByteSizeLong();
  grpc::Slice slice(bytes);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  const int64_t seconds = absl::IDivDuration(from, absl::Seconds(1), &from);
  to->set_seconds(seconds);
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from)));
}

absl::Status MissingField(std::string_view field) {
  return Error(Reason::kMissingField,
               absl::StrCat(std::string(field), " is missing"),
               {{"field", std::string(field)}});
}

absl::Status BadPage(std::string_view field, std::string_view rule) {
  return Error(Reason::kBadPage,
               absl::StrCat(std::string(field), " ", std::string(rule)),
               {{"field", std::string(field)}});
}

absl::Status CheckModelName(const std::string& name, const Served& served) {
  if (name == served.name) return absl::OkStatus();
  return Error(Reason::kModelNotFound,
               "no model of this name is served; ListModels has the names",
               {{"model", name}});
}

void SilenceLibraries() {
  google::protobuf::SetLogHandler(nullptr);
  gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace weir::server
