// SPDX-License-Identifier: Apache-2.0
#include "server/accept_loop.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace weir::server {
namespace {

constexpr int kBacklog = 1024;
// How long to rest when no descriptor is left, and how often to count.
constexpr int kRestMillis = 100;
constexpr int kCountMillis = 1000;

absl::Status CannotListen(const Address& address, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address.text(), ": ", why));
}

// The socket's inode; 0 if the descriptor is closed.
ino_t InodeOf(int descriptor) {
  struct stat status;
  return fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

void SetFlag(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof value);
}

absl::StatusOr<int> Listen(const Address& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(),
                                std::to_string(address.port).c_str(),
                                &hints,
                                &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> free(found,
                                                            freeaddrinfo);
  const int listener =
      socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) return CannotListen(address, std::strerror(errno));
  SetFlag(listener, SOL_SOCKET, SO_REUSEADDR, 1);
  if (found->ai_family == AF_INET6) {
    SetFlag(listener, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  }
  if (bind(listener, found->ai_addr, found->ai_addrlen) != 0 ||
      listen(listener, kBacklog) != 0) {
    const std::string why = std::strerror(errno);
    close(listener);
    return CannotListen(address, why);
  }
  return listener;
}

uint16_t PortOf(int socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length);
  const in_port_t port =
      address.ss_family == AF_INET6
          ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
          : reinterpret_cast<const sockaddr_in*>(&address)->sin_port;
  return ntohs(port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<AcceptLoop>> AcceptLoop::Create(
    Options options) {
  const absl::StatusOr<int> listener = Listen(options.address);
  if (!listener.ok()) return listener.status();
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    close(*listener);
    return CannotListen(options.address, std::strerror(errno));
  }
  options.address.port = PortOf(*listener);
  return std::unique_ptr<AcceptLoop>(
      new AcceptLoop(std::move(options), *listener, wake));
}

AcceptLoop::AcceptLoop(Options options, int listener, int wake)
    : options_(std::move(options)), listener_(listener), wake_(wake) {}

AcceptLoop::~AcceptLoop() {
  Stop();
  close(listener_);
  close(wake_);
}

void AcceptLoop::Start() {
  WEIR_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Run(); });
}

void AcceptLoop::Stop() {
  stopping_ = true;
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  WEIR_CHECK(write(wake_, &one, sizeof one) == sizeof one);
  thread_.join();
}

void AcceptLoop::Run() {
  bool resting = false;
  while (!stopping_) {
    pollfd waits[] = {{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
    // At rest the listener is not asked: it would answer at once, for ever.
    const int ready =
        poll(waits, resting ? 1 : 2, resting ? kRestMillis : kCountMillis);
    if (stopping_) return;
    if (ready == 0) Sweep();
    resting = (resting || waits[1].revents != 0) && !AcceptAll();
  }
}

bool AcceptLoop::AcceptAll() {
  while (!stopping_) {
    const int connection =
        accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0) {
      Take(connection);
      continue;
    }
    switch (errno) {
      case EAGAIN:
        return true;
      case EINTR:
      case ECONNABORTED:
      case EPROTO:
        // A connection that was gone before it was accepted.
        continue;
      default:
        // EMFILE, ENFILE, ENOBUFS, ENOMEM: later there may be room again.
        return false;
    }
  }
  return true;
}

void AcceptLoop::Take(int connection) {
  const ino_t inode = InodeOf(connection);
  open_.erase(connection);
  if (open_.size() >= static_cast<size_t>(options_.connections_max)) Sweep();
  if (open_.size() >= static_cast<size_t>(options_.connections_max)) {
    close(connection);
    options_.on_refused();
    return;
  }
  open_.emplace(connection, inode);
  options_.on_count(static_cast<int64_t>(open_.size()));
  SetFlag(connection, IPPROTO_TCP, TCP_NODELAY, 1);
  options_.on_connection(listener_, connection);
}

void AcceptLoop::Sweep() {
  std::erase_if(open_, [](const auto& entry) {
    return InodeOf(entry.first) != entry.second;
  });
  options_.on_count(static_cast<int64_t>(open_.size()));
}

}  // namespace weir::server
