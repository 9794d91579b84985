// SPDX-License-Identifier: Apache-2.0
//
// An HTTP/2 client that sends what it is told to, right or wrong: gRPC's own
// would not. One call at a time on a connection; replies are read with a bound
// of 10 s.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weir::integration {

using Headers = std::vector<std::pair<std::string, std::string>>;

// What came back on one stream.
struct RawReply {
  std::map<std::string, std::string> headers;  // trailers too
  std::string data;
  bool ended = false;   // the server's last word
  bool reset = false;   // RST_STREAM
  bool closed = false;  // the connection has ended
  uint32_t error = 0;   // of RST_STREAM

  // grpc-status; -1 if none came.
  int status() const;
  // ErrorInfo.reason; empty if there is none.
  std::string reason() const;
  std::string message() const;
  // The payloads of the messages.
  std::vector<std::string> messages() const;
};

// What to send on one stream.
struct RawCall {
  std::string path;
  std::string body = {};   // as it goes into DATA frames
  bool end_stream = true;  // the client's last word, after the body
  Headers headers = {};    // besides the usual ones
  bool abandon = false;    // RST_STREAM after the body
};

class RawHttp2 {
 public:
  // Connects, and acknowledges the server's settings.
  explicit RawHttp2(uint16_t port);
  ~RawHttp2();
  RawHttp2(const RawHttp2&) = delete;
  RawHttp2& operator=(const RawHttp2&) = delete;

  // Sends and waits for the end of the stream or of the connection.
  RawReply Call(const RawCall& call);
  // Sends; nothing is waited for.
  uint32_t Send(const RawCall& call);
  // Bytes as they are.
  void SendBytes(std::string_view bytes);
  RawReply Wait(uint32_t stream);
  // Lets the server send so many more bytes, on the stream and the connection.
  void Allow(uint32_t stream, uint32_t bytes);
  // So many bytes the server may send on a stream before it must ask.
  static constexpr uint32_t kWindow = 65535;
  // The next streams start with a window of this size.
  void SetWindow(uint32_t bytes);

 private:
  struct Frame {
    uint8_t type = 0;
    uint8_t flags = 0;
    uint32_t stream = 0;
    std::string payload;
  };
  void SendFrame(uint8_t type,
                 uint8_t flags,
                 uint32_t stream,
                 std::string_view payload);
  void SendHeaders(uint32_t stream, const RawCall& call);
  bool SendData(uint32_t stream, std::string_view body, bool end);
  // False: the connection has ended.
  bool ReadFrame(Frame& frame);
  bool ReadExactly(char* bytes, size_t count);
  // Takes one frame in.
  bool Take(uint32_t stream, RawReply& reply);
  void TakeHeaders(std::string_view block, RawReply& reply);

  int socket_ = -1;
  uint32_t next_stream_ = 1;
  int64_t connection_window_ = kWindow;
  std::map<uint32_t, int64_t> windows_;
  std::map<uint32_t, RawReply> replies_;
  int64_t initial_window_ = kWindow;
  std::vector<std::pair<std::string, std::string>> table_;  // newest first
  size_t table_bytes_ = 0;
  bool take_data_ = true;
  bool acknowledged_ = false;  // the server's settings
};

// A gRPC message with its prefix.
std::string Framed(std::string_view message, uint8_t flags = 0);
// The same with a length that need not be the message's.
std::string FramedAs(uint32_t length, std::string_view message);

}  // namespace weir::integration
