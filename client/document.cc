// SPDX-License-Identifier: Apache-2.0
#include "client/document.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/status_macros.h"

namespace weir::client {
namespace {

constexpr size_t kBlockBytes = 64 * 1024;
constexpr int kWaitMs = 100;
constexpr size_t kDigitsMax = 10;  // of an uint32

absl::Status Failed(const std::string& name, int error) {
  return absl::NotFoundError("cannot read " + name + ": " +
                             std::strerror(error));
}

}  // namespace

absl::StatusOr<Document> Document::Open(const std::string& path,
                                        int input,
                                        Format format) {
  if (path == "-") {
    return Document("standard input", input, /*owned=*/false, format);
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(path, errno);
  struct stat status {};
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    close(fd);
    return Failed(path, EISDIR);
  }
  return Document(path, fd, /*owned=*/true, format);
}

Document::Document(std::string name, int fd, bool owned, Format format)
    : name_(std::move(name)), fd_(fd), owned_(owned), format_(format) {
  struct stat status {};
  if (fstat(fd_, &status) == 0 && S_ISREG(status.st_mode)) {
    size_bytes_ = status.st_size;
  }
}

Document::Document(Document&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(other.fd_),
      owned_(std::exchange(other.owned_, false)),
      format_(other.format_),
      size_bytes_(other.size_bytes_),
      buffer_(std::move(other.buffer_)),
      at_(other.at_),
      end_(other.end_),
      bytes_(other.bytes_),
      id_(std::move(other.id_)) {}

Document::~Document() {
  if (owned_) close(fd_);
}

absl::Status Document::Fill(int wait_ms) {
  if (end_ || at_ < buffer_.size()) return absl::OkStatus();
  // A plain file is always ready; a pipe may be silent, and a read of it could
  // not be interrupted.
  pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
  if (!size_bytes_.has_value() && poll(&ready, 1, wait_ms) <= 0) {
    return absl::OkStatus();
  }
  buffer_.resize(kBlockBytes);
  ssize_t got = 0;
  do {
    got = read(fd_, buffer_.data(), buffer_.size());
  } while (got < 0 && errno == EINTR);
  buffer_.resize(std::max<ssize_t>(got, 0));
  at_ = 0;
  if (got < 0) return Failed(name_, errno);
  end_ = got == 0;
  bytes_ += got;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<uint32_t>> Document::NextId() {
  while (true) {
    while (at_ < buffer_.size()) {
      const char c = buffer_[at_];
      if (std::isdigit(static_cast<unsigned char>(c)) &&
          id_.size() < kDigitsMax) {
        id_ += c;
      } else if (!std::isspace(static_cast<unsigned char>(c))) {
        return absl::InvalidArgumentError(
            name_ + " is not a list of token ids: see byte " +
            std::to_string(bytes()));
      } else if (!id_.empty()) {
        break;
      }
      ++at_;
    }
    if (!id_.empty() && (at_ < buffer_.size() || end_)) {
      uint32_t id = 0;
      const auto [stop, error] =
          std::from_chars(id_.data(), id_.data() + id_.size(), id);
      if (error != std::errc()) {
        return absl::InvalidArgumentError(name_ + ": " + id_ +
                                          " is not a token id");
      }
      id_.clear();
      return id;
    }
    if (end_) return std::nullopt;
    WEIR_RETURN_IF_ERROR(Fill(0));
    if (at_ == buffer_.size() && !end_) return std::nullopt;
  }
}

absl::StatusOr<TokenRead> Document::Read(std::span<uint32_t> room) {
  TokenRead read;
  while (read.tokens < room.size()) {
    WEIR_RETURN_IF_ERROR(Fill(read.tokens == 0 ? kWaitMs : 0));
    if (format_ == Format::kIds) {
      WEIR_ASSIGN_OR_RETURN(const std::optional<uint32_t> id, NextId());
      if (!id.has_value()) break;
      room[read.tokens++] = *id;
      continue;
    }
    if (at_ == buffer_.size()) break;
    const size_t n = std::min(room.size() - read.tokens, buffer_.size() - at_);
    for (size_t i = 0; i < n; ++i) {
      room[read.tokens++] = static_cast<uint8_t>(buffer_[at_++]);
    }
  }
  read.end = end_ && at_ == buffer_.size() && id_.empty();
  return read;
}

absl::Status Document::Skip(uint64_t tokens,
                            const std::function<bool()>& interrupted) {
  std::array<uint32_t, 4096> passed;
  uint64_t left = tokens;
  while (left > 0) {
    if (interrupted()) return absl::CancelledError("interrupted");
    WEIR_ASSIGN_OR_RETURN(
        const TokenRead read,
        Read(std::span(passed).first(std::min<uint64_t>(left, 4096))));
    left -= read.tokens;
    if (read.end && left > 0) {
      return absl::OutOfRangeError(
          name_ + " holds " + std::to_string(tokens - left) +
          " tokens, fewer than " + std::to_string(tokens));
    }
  }
  return absl::OkStatus();
}

}  // namespace weir::client
