// SPDX-License-Identifier: Apache-2.0
//
// A program as a child process: what it says, its signals, its exit code.
//
// Threads: one thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace weir::integration {

using Words = std::vector<std::string>;

// A running program; killed with the object. Every wait is bounded.
class Process {
 public:
  // `input`: all that it can read from its standard input.
  Process(const std::string& binary,
          const Words& arguments,
          const std::string& input = "");
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int number) const;

  // What it says up to `mark`; all of it if it ends before.
  std::string OutTo(const std::string& mark) { return Read(out_, mark); }
  std::string Err(const std::string& mark) { return Read(err_, mark); }
  // The rest of each.
  std::string RestOfOut() { return Read(out_, std::nullopt); }
  std::string RestOfErr() { return Read(err_, std::nullopt); }
  std::string Rest() { return RestOfOut() + RestOfErr(); }

  // Its exit code; -1 if a signal ended it.
  int Wait();

 private:
  static std::string Read(int descriptor, std::optional<std::string> mark);

  pid_t pid_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::optional<int> status_;
};

// "127.0.0.1:PORT" behind `words` in the server's banner.
std::string AddressAfter(const std::string& banner, const std::string& words);

}  // namespace weir::integration
