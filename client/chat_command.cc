// SPDX-License-Identifier: Apache-2.0
//
// `weir chat`: a line is appended, the session goes on, and so again.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>

#include "base/status_macros.h"
#include "client/errors.h"
#include "client/format.h"
#include "client/text_session.h"
#include "client/tool.h"

namespace weir::client {
namespace {

constexpr char kHelp[] =
    "/position  tokens that the session has read\n"
    "/fork [ID] copy the session as it stands\n"
    "/quit      end\n"
    "An empty line lets the session go on without new text.\n";

struct ChatFlags {
  std::string session_id;
  std::string model;
  bool keep = false;
  SamplingFlags sampling;
};

// Lines of a file descriptor; an interrupt ends the wait for one.
class LineReader {
 public:
  LineReader(int fd, Cancellation* cancellation)
      : fd_(fd), cancellation_(cancellation) {}

  // nullopt at the end of the input, and when interrupted.
  std::optional<std::string> Next() {
    while (true) {
      const size_t newline = buffer_.find('\n');
      if (newline != std::string::npos) {
        std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return line;
      }
      if (ended_) {
        if (buffer_.empty()) return std::nullopt;
        return std::exchange(buffer_, std::string());
      }
      if (cancellation_->cancelled()) return std::nullopt;
      pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
      if (poll(&ready, 1, 100) <= 0) continue;
      std::array<char, 4096> block;
      const ssize_t got = read(fd_, block.data(), block.size());
      if (got < 0 && errno == EINTR) continue;
      ended_ = got <= 0;
      if (got > 0) buffer_.append(block.data(), got);
    }
  }

 private:
  const int fd_;
  Cancellation* const cancellation_;
  std::string buffer_;
  bool ended_ = false;
};

class Chat {
 public:
  Chat(Tool& tool, const ChatFlags& flags, TextSession text)
      : tool_(tool),
        flags_(flags),
        text_(std::move(text)),
        lines_(tool.input(), tool.cancellation().get()) {}

  absl::Status Run() {
    Greet();
    while (true) {
      Prompt();
      const std::optional<std::string> line = lines_.Next();
      if (tool_.cancellation()->cancelled()) {
        tool_.out().Note("\n");
        return absl::CancelledError("interrupted");
      }
      if (!line.has_value()) {
        if (tool_.out().out_is_terminal()) tool_.out().Write("\n");
        return absl::OkStatus();
      }
      if (*line == "/quit") return absl::OkStatus();
      if (line->starts_with("/")) {
        WEIR_RETURN_IF_ERROR(Obey(*line));
      } else {
        WEIR_RETURN_IF_ERROR(Answer(*line));
      }
    }
  }

 private:
  void Greet() {
    if (!tool_.out().err_is_terminal() || tool_.json()) return;
    tool_.out().Note(tool_.out().Dim(
        "session " + text_.session().id() + " of " + text_.model().name() +
        " at position " + FormatCount(text_.session().position()) +
        "; /help shows the commands, Ctrl-C stops an answer\n"));
  }

  void Prompt() {
    if (tool_.out().out_is_terminal() && !tool_.json()) {
      tool_.out().Write(tool_.out().Bold("> "));
    }
  }

  // A line that begins with a slash.
  absl::Status Obey(const std::string& line) {
    if (line == "/position") {
      tool_.out().Write(FormatCount(text_.session().position()) + "\n");
    } else if (line == "/fork" || line.starts_with("/fork ")) {
      const std::string id = line.size() > 6 ? line.substr(6) : "";
      absl::StatusOr<Session> fork = text_.session().Fork(id);
      if (!fork.ok()) {
        if (!IsSlip(fork.status())) return fork.status();
        tool_.out().Note("weir: " + DescribeError(fork.status()) + "\n");
        return absl::OkStatus();
      }
      fork->Detach();
      tool_.out().Write("forked at position " + FormatCount(fork->position()) +
                        "; go on there with: " + tool_.Command() +
                        " chat --session " + fork->id() + "\n");
    } else {
      tool_.out().Write(kHelp);
    }
    return absl::OkStatus();
  }

  absl::Status Answer(const std::string& line) {
    if (!line.empty()) WEIR_RETURN_IF_ERROR(text_.Say(line + "\n"));
    const absl::StatusOr<GenerationEnd> end =
        text_.Continue(flags_.sampling.Request());
    const bool stopped =
        !end.ok() && tool_.cancellation()->cancelled() && !tool_.out().broken();
    if (!tool_.json()) tool_.out().Write("\n");
    if (stopped) {
      // Ctrl-C stops an answer; at the prompt it ends the chat.
      tool_.cancellation()->Reset();
      return text_.session().Refresh();
    }
    if (!end.ok()) return end.status();
    if (tool_.json()) {
      tool_.out().Json({{"event", "end"},
                        {"session_id", text_.session().id()},
                        {"position", end->position},
                        {"tokens", end->position - end->begin},
                        {"finish_reason", FinishName(end->finish_reason)}});
    }
    return absl::OkStatus();
  }

  // A wrong id is said and forgotten; a session that is gone ends the chat.
  static bool IsSlip(const absl::Status& status) {
    const std::string reason = ReasonOf(status);
    return reason == "BAD_ID" || reason == "SESSION_EXISTS" ||
           reason == "STATE_POOL_EXHAUSTED";
  }

  Tool& tool_;
  const ChatFlags& flags_;
  TextSession text_;
  LineReader lines_;
};

absl::Status RunChat(Tool& tool, const ChatFlags& flags) {
  WEIR_ASSIGN_OR_RETURN(
      TextSession text,
      TextSession::Open(tool, flags.session_id, flags.model, true));
  if (!text.model().takes_text()) {
    return absl::FailedPreconditionError(
        text.model().name() +
        " takes token ids only; weir stream --ids and "
        "weir generate work with it");
  }
  // A session with a name is meant to be found again.
  if (flags.keep || !flags.session_id.empty()) text.session().Detach();
  return Chat(tool, flags, std::move(text)).Run();
}

}  // namespace

void AddChatCommand(CLI::App& app, Tool& tool) {
  CLI::App* command = app.add_subcommand(
      "chat", "Write to a session line by line, and read how it goes on");
  auto flags = std::make_shared<ChatFlags>();
  command
      ->add_option("--session",
                   flags->session_id,
                   "Session to write to; opened if it is not open, and left "
                   "open. Without it: a new one, closed at the end")
      ->type_name("ID");
  command->add_option("--model", flags->model, "Model of a new session")
      ->type_name("MODEL");
  flags->sampling.stops = {"\\n\\n"};
  flags->sampling.AddTo(*command, 200);
  command->add_flag("--keep", flags->keep, "Leave a new session open");
  command->footer(
      "Within: /position, /fork [ID], /quit. An answer ends at "
      "an empty line, or at --stop.");
  command->callback([flags, &tool] {
    tool.set_command([flags, &tool] { return RunChat(tool, *flags); });
  });
}

}  // namespace weir::client
