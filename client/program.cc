// SPDX-License-Identifier: Apache-2.0
#include "client/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace weir::client {
namespace {

constexpr size_t kBytesMax = size_t{64} << 20;

// Both ends of a pipe.
class Pipe {
 public:
  Pipe() { made_ = pipe2(ends_.data(), O_CLOEXEC) == 0; }
  ~Pipe() {
    CloseWriting();
    if (made_) close(ends_[0]);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool made() const { return made_; }
  int reading() const { return ends_[0]; }
  int writing() const { return ends_[1]; }
  void CloseWriting() {
    if (made_ && ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  std::array<int, 2> ends_ = {-1, -1};
  bool made_ = false;
};

// The program of that name beside this one, or the name alone.
std::string PathOf(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const auto beside = self.parent_path() / name;
    if (access(beside.c_str(), X_OK) == 0) return beside.string();
  }
  return name;
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> out;
  out.reserve(words.size() + 1);
  for (const std::string& word : words) {
    out.push_back(const_cast<char*>(word.c_str()));
  }
  out.push_back(nullptr);
  return out;
}

// The options of a server that stand there are not meant for this.
std::vector<char*> Environment() {
  std::vector<char*> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("WEIR_")) out.push_back(*entry);
  }
  out.push_back(nullptr);
  return out;
}

// The error number of a start that failed; 0 if it did not.
int Start(const std::string& name,
          const std::vector<std::string>& arguments,
          const Pipe& out,
          const Pipe& err,
          pid_t& child) {
  std::vector<std::string> words = {name};
  words.insert(words.end(), arguments.begin(), arguments.end());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(
      &actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.writing(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.writing(), STDERR_FILENO);
  const int error = posix_spawnp(&child,
                                 PathOf(name).c_str(),
                                 &actions,
                                 /*attr=*/nullptr,
                                 Pointers(words).data(),
                                 Environment().data());
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

// Reads both pipes to their ends; false if they hold too much.
bool ReadBoth(const Pipe& out, const Pipe& err, ProgramResult& result) {
  std::array<pollfd, 2> waits = {
      {{out.reading(), POLLIN, 0}, {err.reading(), POLLIN, 0}}};
  const std::array<std::string*, 2> texts = {&result.out, &result.err};
  std::array<char, 65'536> block;
  while (waits[0].fd >= 0 || waits[1].fd >= 0) {
    if (poll(waits.data(), waits.size(), -1) < 0) continue;  // a signal
    for (size_t i = 0; i < waits.size(); ++i) {
      if (waits[i].fd < 0 || waits[i].revents == 0) continue;
      const ssize_t got = read(waits[i].fd, block.data(), block.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        waits[i].fd = -1;
        continue;
      }
      texts[i]->append(block.data(), static_cast<size_t>(got));
      if (texts[i]->size() > kBytesMax) return false;
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<ProgramResult> RunProgram(
    const std::string& name, const std::vector<std::string>& arguments) {
  Pipe out;
  Pipe err;
  if (!out.made() || !err.made()) {
    return absl::ResourceExhaustedError("no pipe can be opened");
  }
  pid_t child = -1;
  if (const int error = Start(name, arguments, out, err, child); error != 0) {
    return absl::NotFoundError(absl::StrCat(
        name,
        " cannot be started (",
        strerror(error),
        "): it is looked for beside this program and on the PATH"));
  }
  out.CloseWriting();
  err.CloseWriting();
  ProgramResult result;
  const bool whole = ReadBoth(out, err, result);
  if (!whole) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!whole) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name, " said more than ", kBytesMax, " bytes"));
  }
  result.code =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace weir::client
