// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace weir::integration {
namespace {

constexpr int kReadMilliseconds = 120'000;

// A file of these bytes, read from its beginning.
int FileOf(const std::string& bytes) {
  const int file = memfd_create("input", MFD_CLOEXEC);
  EXPECT_GE(file, 0);
  const auto size = static_cast<ssize_t>(bytes.size());
  EXPECT_EQ(write(file, bytes.data(), bytes.size()), size);
  EXPECT_EQ(lseek(file, 0, SEEK_SET), 0);
  return file;
}

}  // namespace

Process::Process(const std::string& binary,
                 const Words& arguments,
                 const std::string& input) {
  int out[2], err[2];
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
  const int in = FileOf(input);
  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& word : arguments) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in, STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(in);
  close(out[1]);
  close(err[1]);
  out_ = out[0];
  err_ = err[0];
}

Process::~Process() {
  if (!status_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(out_);
  close(err_);
}

void Process::Signal(int number) const { kill(pid_, number); }

int Process::Wait() {
  if (!status_) {
    int status = 0;
    waitpid(pid_, &status, 0);
    status_ = status;
  }
  return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : -1;
}

std::string Process::Read(int descriptor, std::optional<std::string> mark) {
  std::string text;
  char buffer[1024];
  pollfd wait{descriptor, POLLIN, 0};
  while (!mark || text.find(*mark) == std::string::npos ||
         !text.ends_with('\n')) {
    if (poll(&wait, 1, kReadMilliseconds) <= 0) break;
    const ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got <= 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text;
}

std::string AddressAfter(const std::string& banner, const std::string& words) {
  const size_t at = banner.find(words);
  if (at == std::string::npos) return "";
  const size_t begin = at + words.size();
  return banner.substr(begin, banner.find('\n', begin) - begin);
}

}  // namespace weir::integration
