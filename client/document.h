// SPDX-License-Identifier: Apache-2.0
//
// A document as a source of tokens: a file or standard input, read block by
// block, as bytes or as token ids in decimal.
//
// Threads: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/stream_append.h"

namespace weir::client {

class Document {
 public:
  enum class Format {
    kBytes,  // each byte is a token
    kIds,    // numbers, with white space between
  };

  // "-" is `input`, which is not closed.
  static absl::StatusOr<Document> Open(const std::string& path,
                                       int input,
                                       Format format);
  Document(Document&& other) noexcept;
  Document& operator=(Document&&) = delete;
  ~Document();

  // A TokenSource: waits 100 ms at most for a pipe that gives nothing.
  absl::StatusOr<TokenRead> Read(std::span<uint32_t> room);
  // Passes over the first tokens; OUT_OF_RANGE if there are not so many.
  // `interrupted` ends it with CANCELLED.
  absl::Status Skip(uint64_t tokens, const std::function<bool()>& interrupted);

  const std::string& name() const { return name_; }
  // nullopt for what is not a plain file.
  std::optional<uint64_t> size_bytes() const { return size_bytes_; }
  // Given out, or passed over, so far.
  uint64_t bytes() const { return bytes_ - (buffer_.size() - at_); }

 private:
  Document(std::string name, int fd, bool owned, Format format);
  // Reads more into the buffer if there is some within `wait_ms`.
  absl::Status Fill(int wait_ms);
  absl::StatusOr<std::optional<uint32_t>> NextId();

  std::string name_;
  int fd_;
  bool owned_;
  Format format_;
  std::optional<uint64_t> size_bytes_;
  std::vector<char> buffer_;
  size_t at_ = 0;  // of the buffer
  bool end_ = false;
  uint64_t bytes_ = 0;  // read so far
  std::string id_;      // digits of a number that the buffer's end may have cut
};

}  // namespace weir::client
