// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/raw_http2.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "tests/integration/server_fixture.h"

namespace weir::integration {
namespace {

constexpr uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6,
                  kWindowUpdate = 8, kContinuation = 9;
constexpr uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4;
constexpr size_t kFrameBytesMax = 16384;

// The static table of HPACK (RFC 7541, appendix A).
constexpr std::pair<const char*, const char*> kStatic[] = {
    {":authority", ""},
    {":method", "GET"},
    {":method", "POST"},
    {":path", "/"},
    {":path", "/index.html"},
    {":scheme", "http"},
    {":scheme", "https"},
    {":status", "200"},
    {":status", "204"},
    {":status", "206"},
    {":status", "304"},
    {":status", "400"},
    {":status", "404"},
    {":status", "500"},
    {"accept-charset", ""},
    {"accept-encoding", "gzip, deflate"},
    {"accept-language", ""},
    {"accept-ranges", ""},
    {"accept", ""},
    {"access-control-allow-origin", ""},
    {"age", ""},
    {"allow", ""},
    {"authorization", ""},
    {"cache-control", ""},
    {"content-disposition", ""},
    {"content-encoding", ""},
    {"content-language", ""},
    {"content-length", ""},
    {"content-location", ""},
    {"content-range", ""},
    {"content-type", ""},
    {"cookie", ""},
    {"date", ""},
    {"etag", ""},
    {"expect", ""},
    {"expires", ""},
    {"from", ""},
    {"host", ""},
    {"if-match", ""},
    {"if-modified-since", ""},
    {"if-none-match", ""},
    {"if-range", ""},
    {"if-unmodified-since", ""},
    {"last-modified", ""},
    {"link", ""},
    {"location", ""},
    {"max-forwards", ""},
    {"proxy-authenticate", ""},
    {"proxy-authorization", ""},
    {"range", ""},
    {"referer", ""},
    {"refresh", ""},
    {"retry-after", ""},
    {"server", ""},
    {"set-cookie", ""},
    {"strict-transport-security", ""},
    {"transfer-encoding", ""},
    {"user-agent", ""},
    {"vary", ""},
    {"via", ""},
    {"www-authenticate", ""}};
constexpr size_t kStaticCount = std::size(kStatic);

void PutInteger(std::string& out, uint8_t first, int bits, size_t value) {
  const size_t most = (size_t{1} << bits) - 1;
  if (value < most) {
    out += static_cast<char>(first | value);
    return;
  }
  out += static_cast<char>(first | most);
  for (value -= most; value >= 128; value >>= 7) {
    out += static_cast<char>(value % 128 + 128);
  }
  out += static_cast<char>(value);
}

size_t GetInteger(std::string_view& in, int bits) {
  const size_t most = (size_t{1} << bits) - 1;
  size_t value = static_cast<uint8_t>(in[0]) & most;
  in.remove_prefix(1);
  if (value < most) return value;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(in.at(0));
    in.remove_prefix(1);
    value += static_cast<size_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
}

// gRPC writes no Huffman code but in base64 of binary headers, which it does
// not use with a client that takes them as they are.
std::string GetString(std::string_view& in) {
  WEIR_CHECK((static_cast<uint8_t>(in.at(0)) & 0x80) == 0);
  const size_t length = GetInteger(in, 7);
  std::string text(in.substr(0, length));
  in.remove_prefix(length);
  return text;
}

void PutHeader(std::string& out,
               const std::string& name,
               const std::string& value) {
  out += '\0';
  PutInteger(out, 0, 7, name.size());
  out += name;
  PutInteger(out, 0, 7, value.size());
  out += value;
}

std::string Big32(uint32_t value) {
  const uint32_t big = htonl(value);
  return std::string(reinterpret_cast<const char*>(&big), 4);
}

uint32_t Get32(std::string_view bytes) {
  uint32_t big = 0;
  std::memcpy(&big, bytes.data(), 4);
  return ntohl(big);
}

std::string Setting(uint16_t name, uint32_t value) {
  std::string text;
  text += static_cast<char>(name >> 8);
  text += static_cast<char>(name & 0xff);
  return text + Big32(value);
}

}  // namespace

int RawReply::status() const {
  const auto found = headers.find("grpc-status");
  return found == headers.end() ? -1 : std::stoi(found->second);
}

std::string RawReply::reason() const {
  const auto found = headers.find("grpc-status-details-bin");
  return found == headers.end() ? "" : ReasonIn(found->second);
}

std::string RawReply::message() const {
  const auto found = headers.find("grpc-message");
  return found == headers.end() ? "" : found->second;
}

std::vector<std::string> RawReply::messages() const {
  std::vector<std::string> messages;
  for (std::string_view rest = data; rest.size() >= 5;) {
    const uint32_t length = Get32(rest.substr(1));
    messages.emplace_back(rest.substr(5, length));
    rest.remove_prefix(std::min<size_t>(rest.size(), 5 + length));
  }
  return messages;
}

RawHttp2::RawHttp2(uint16_t port) {
  socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
  timeval limit{10, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  // Small frames leave at once.
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  WEIR_CHECK(connect(socket_,
                     reinterpret_cast<sockaddr*>(&address),
                     sizeof address) == 0);
  SendBytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  // Binary headers as they are (a setting of gRPC's own).
  SendFrame(kSettings, 0, 0, Setting(0xfe03, 1));
  // The server holds a client to its limits once they have been acknowledged.
  RawReply ignored;
  while (!acknowledged_ && Take(0, ignored)) {
  }
}

RawHttp2::~RawHttp2() { close(socket_); }

void RawHttp2::SetWindow(uint32_t bytes) {
  SendFrame(kSettings, 0, 0, Setting(4, bytes));
  take_data_ = false;
}

void RawHttp2::Allow(uint32_t stream, uint32_t bytes) {
  SendFrame(kWindowUpdate, 0, 0, Big32(bytes));
  SendFrame(kWindowUpdate, 0, stream, Big32(bytes));
}

RawReply RawHttp2::Call(const RawCall& call) { return Wait(Send(call)); }

uint32_t RawHttp2::Send(const RawCall& call) {
  const uint32_t stream = next_stream_;
  next_stream_ += 2;
  windows_[stream] = initial_window_;
  SendHeaders(stream, call);
  if (!call.body.empty() || (call.end_stream && !call.abandon)) {
    SendData(stream, call.body, call.end_stream && !call.abandon);
  }
  if (call.abandon) SendFrame(kReset, 0, stream, Big32(8));
  return stream;
}

RawReply RawHttp2::Wait(uint32_t stream) {
  RawReply& reply = replies_[stream];
  while (!reply.ended && !reply.reset && Take(stream, reply)) {
  }
  return reply;
}

void RawHttp2::SendBytes(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent =
        send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

void RawHttp2::SendFrame(uint8_t type,
                         uint8_t flags,
                         uint32_t stream,
                         std::string_view payload) {
  std::string frame = Big32(static_cast<uint32_t>(payload.size())).substr(1);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  frame += Big32(stream);
  SendBytes(frame.append(payload));
}

void RawHttp2::SendHeaders(uint32_t stream, const RawCall& call) {
  std::string block;
  Headers headers = {{":method", "POST"},
                     {":scheme", "http"},
                     {":path", call.path},
                     {":authority", "test"},
                     {"te", "trailers"},
                     {"content-type", "application/grpc"}};
  headers.insert(headers.end(), call.headers.begin(), call.headers.end());
  for (const auto& [name, value] : headers) PutHeader(block, name, value);
  bool first = true;
  for (std::string_view rest = block; first || !rest.empty(); first = false) {
    const std::string_view part = rest.substr(0, kFrameBytesMax);
    rest.remove_prefix(part.size());
    SendFrame(first ? kHeaders : kContinuation,
              rest.empty() ? kEndHeaders : 0,
              stream,
              part);
  }
}

// False: the server has ended the stream before it took everything.
bool RawHttp2::SendData(uint32_t stream, std::string_view body, bool end) {
  RawReply& reply = replies_[stream];
  do {
    while (!body.empty() &&
           (windows_[stream] <= 0 || connection_window_ <= 0)) {
      if (!Take(stream, reply) || reply.ended || reply.reset) return false;
    }
    const auto room =
        static_cast<size_t>(std::min(windows_[stream], connection_window_));
    const std::string_view part =
        body.substr(0, std::min(kFrameBytesMax, room));
    body.remove_prefix(part.size());
    windows_[stream] -= static_cast<int64_t>(part.size());
    connection_window_ -= static_cast<int64_t>(part.size());
    SendFrame(kData, end && body.empty() ? kEndStream : 0, stream, part);
  } while (!body.empty());
  return true;
}

bool RawHttp2::ReadExactly(char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = recv(socket_, bytes, count, 0);
    if (got <= 0) return false;
    bytes += got;
    count -= static_cast<size_t>(got);
  }
  return true;
}

bool RawHttp2::ReadFrame(Frame& frame) {
  char head[9];
  if (!ReadExactly(head, sizeof head)) return false;
  const uint32_t length = Get32(std::string("\0", 1) + std::string(head, 3));
  frame.type = static_cast<uint8_t>(head[3]);
  frame.flags = static_cast<uint8_t>(head[4]);
  frame.stream = Get32({head + 5, 4}) & 0x7fffffff;
  frame.payload.resize(length);
  return ReadExactly(frame.payload.data(), length);
}

bool RawHttp2::Take(uint32_t stream, RawReply& reply) {
  Frame frame;
  if (!ReadFrame(frame)) {
    reply.closed = true;
    return false;
  }
  RawReply& owner = frame.stream == stream ? reply : replies_[frame.stream];
  switch (frame.type) {
    case kSettings:
      if ((frame.flags & kAck) != 0) break;
      for (std::string_view rest = frame.payload; rest.size() >= 6;
           rest.remove_prefix(6)) {
        if (rest[0] != 0 || rest[1] != 4) continue;
        const int64_t window = Get32(rest.substr(2));
        for (auto& [id, left] : windows_) left += window - initial_window_;
        initial_window_ = window;
      }
      SendFrame(kSettings, kAck, 0, "");
      acknowledged_ = true;
      break;
    case kPing:
      if ((frame.flags & kAck) == 0) SendFrame(kPing, kAck, 0, frame.payload);
      break;
    case kWindowUpdate:
      (frame.stream == 0 ? connection_window_ : windows_[frame.stream]) +=
          Get32(frame.payload);
      break;
    case kHeaders:
      WEIR_CHECK((frame.flags & kEndHeaders) != 0);
      TakeHeaders(frame.payload, owner);
      break;
    case kData:
      owner.data += frame.payload;
      if (take_data_ && !frame.payload.empty()) {
        Allow(frame.stream, static_cast<uint32_t>(frame.payload.size()));
      }
      break;
    case kReset:
      owner.reset = true;
      owner.error = Get32(frame.payload);
      break;
    default:
      break;
  }
  if ((frame.type == kData || frame.type == kHeaders) &&
      (frame.flags & kEndStream) != 0) {
    owner.ended = true;
  }
  return true;
}

void RawHttp2::TakeHeaders(std::string_view block, RawReply& reply) {
  const auto at = [this](size_t index) {
    WEIR_CHECK(index >= 1 && index <= kStaticCount + table_.size());
    return index <= kStaticCount
               ? std::pair<std::string, std::string>(kStatic[index - 1])
               : table_[index - kStaticCount - 1];
  };
  while (!block.empty()) {
    const auto first = static_cast<uint8_t>(block[0]);
    if ((first & 0x80) != 0) {
      const auto [name, value] = at(GetInteger(block, 7));
      reply.headers[name] = value;
      continue;
    }
    if ((first & 0xe0) == 0x20) {
      GetInteger(block, 5);
      continue;
    }
    const bool keep = (first & 0x40) != 0;
    const size_t index = GetInteger(block, keep ? 6 : 4);
    const std::string name = index == 0 ? GetString(block) : at(index).first;
    std::string value = GetString(block);
    if (keep) {
      table_.insert(table_.begin(), {name, value});
      table_bytes_ += name.size() + value.size() + 32;
      while (table_bytes_ > 4096) {
        table_bytes_ -=
            table_.back().first.size() + table_.back().second.size() + 32;
        table_.pop_back();
      }
    }
    // A binary value comes with a zero before it.
    if (name.ends_with("-bin") && value.starts_with('\0')) value.erase(0, 1);
    reply.headers[name] = value;
  }
}

std::string Framed(std::string_view message, uint8_t flags) {
  std::string framed(1, static_cast<char>(flags));
  return framed + Big32(static_cast<uint32_t>(message.size())) +
         std::string(message);
}

std::string FramedAs(uint32_t length, std::string_view message) {
  return std::string(1, '\0') + Big32(length) + std::string(message);
}

}  // namespace weir::integration
