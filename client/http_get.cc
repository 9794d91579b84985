// SPDX-License-Identifier: Apache-2.0
#include "client/http_get.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/status_macros.h"

namespace weir::client {
namespace {

constexpr size_t kBodyMax = size_t{16} << 20;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

// Waits until the socket is ready for `events`.
bool WaitReady(int fd, short events, absl::Time end) {
  pollfd ready{.fd = fd, .events = events, .revents = 0};
  const auto left =
      std::max<int64_t>(0, absl::ToInt64Milliseconds(end - absl::Now()));
  return poll(&ready, 1, static_cast<int>(left)) > 0;
}

absl::Status Connect(const Socket& socket,
                     const addrinfo& address,
                     absl::Time end) {
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) {
    return absl::OkStatus();
  }
  if (errno != EINPROGRESS) {
    return absl::UnavailableError(std::strerror(errno));
  }
  if (!WaitReady(socket.fd(), POLLOUT, end)) {
    return absl::UnavailableError("timed out");
  }
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 ? absl::OkStatus()
                    : absl::UnavailableError(std::strerror(error));
}

absl::StatusOr<std::string> Exchange(const Socket& socket,
                                     std::string_view request,
                                     absl::Time end) {
  while (!request.empty()) {
    if (!WaitReady(socket.fd(), POLLOUT, end)) {
      return absl::UnavailableError("timed out");
    }
    const ssize_t sent =
        send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL);
    if (sent < 0) return absl::UnavailableError(std::strerror(errno));
    request.remove_prefix(sent);
  }
  std::string answer;
  std::array<char, 16 * 1024> block;
  while (answer.size() < kBodyMax) {
    if (!WaitReady(socket.fd(), POLLIN, end)) {
      return absl::UnavailableError("timed out");
    }
    const ssize_t got = recv(socket.fd(), block.data(), block.size(), 0);
    if (got < 0) return absl::UnavailableError(std::strerror(errno));
    if (got == 0) return answer;
    answer.append(block.data(), got);
  }
  return absl::FailedPreconditionError("the page is too large");
}

absl::StatusOr<std::string> BodyOf(const std::string& answer) {
  const size_t head_end = answer.find("\r\n\r\n");
  if (!answer.starts_with("HTTP/1.") || head_end == std::string::npos) {
    return absl::FailedPreconditionError("the answer is not HTTP");
  }
  const std::string line = answer.substr(0, answer.find("\r\n"));
  if (line.substr(8, 5) != " 200 " && line.substr(8) != " 200") {
    return absl::FailedPreconditionError("the answer is " + line);
  }
  return answer.substr(head_end + 4);
}

}  // namespace

absl::StatusOr<std::string> HttpGet(const std::string& address,
                                    const std::string& path,
                                    absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(address + " is not HOST:PORT");
  }
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (error != 0) {
    return absl::UnavailableError("cannot resolve " + address + ": " +
                                  gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(
      found, &freeaddrinfo);
  const absl::Time end = absl::Now() + timeout;
  // HTTP/1.0: the answer ends with the connection and comes in one piece.
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: " + address +
                              "\r\nAccept: text/plain\r\n\r\n";
  absl::Status status;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const Socket socket(
        ::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    status = Connect(socket, *at, end);
    if (!status.ok()) continue;
    const absl::StatusOr<std::string> answer = Exchange(socket, request, end);
    absl::StatusOr<std::string> body = answer;
    if (answer.ok()) body = BodyOf(*answer);
    if (body.ok()) return body;
    status = body.status();
    break;
  }
  return absl::Status(status.code(),
                      "cannot read http://" + address + path + ": " +
                          std::string(status.message()));
}

}  // namespace weir::client
