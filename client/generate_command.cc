// SPDX-License-Identifier: Apache-2.0
//
// `weir generate`: a session goes on by itself.
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>

#include "base/status_macros.h"
#include "client/document.h"
#include "client/format.h"
#include "client/text_session.h"
#include "client/tool.h"

namespace weir::client {
namespace {

struct GenerateFlags {
  std::string session_id;
  std::string model;
  std::string prompt;
  bool log_probs = false;
  bool keep = false;
  SamplingFlags sampling;
};

// All of standard input.
absl::StatusOr<std::string> ReadAll(Tool& tool) {
  WEIR_ASSIGN_OR_RETURN(
      Document document,
      Document::Open("-", tool.input(), Document::Format::kBytes));
  std::string text;
  std::array<uint32_t, 4096> bytes;
  TokenRead read;
  while (!read.end) {
    if (tool.cancellation()->cancelled()) {
      return absl::CancelledError("interrupted");
    }
    WEIR_ASSIGN_OR_RETURN(read, document.Read(bytes));
    for (size_t i = 0; i < read.tokens; ++i) {
      text += static_cast<char>(bytes[i]);
    }
  }
  return text;
}

void Report(Tool& tool,
            const Session& session,
            const GenerationEnd& end,
            absl::Duration elapsed) {
  const uint64_t tokens = end.position - end.begin;
  if (tool.json()) {
    tool.out().Json({{"event", "end"},
                     {"session_id", session.id()},
                     {"begin", end.begin},
                     {"position", end.position},
                     {"tokens", tokens},
                     {"finish_reason", FinishName(end.finish_reason)},
                     {"stop_string", end.stop_string},
                     {"max_tokens", end.max_tokens},
                     {"resumes", end.resumes},
                     {"seconds", absl::ToDoubleSeconds(elapsed)}});
    return;
  }
  tool.out().Write("\n");
  if (!tool.out().err_is_terminal()) return;
  const double rate =
      static_cast<double>(tokens) / absl::ToDoubleSeconds(elapsed);
  tool.out().Note(tool.out().Dim(FormatCount(tokens) + " tokens, " +
                                 FormatRate(rate) + " tokens/s, ended by " +
                                 FinishName(end.finish_reason) + "\n"));
}

absl::Status RunGenerate(Tool& tool, const GenerateFlags& flags) {
  std::string prompt = flags.prompt;
  if (prompt == "-") {
    WEIR_ASSIGN_OR_RETURN(prompt, ReadAll(tool));
  }
  WEIR_ASSIGN_OR_RETURN(
      TextSession text,
      TextSession::Open(tool, flags.session_id, flags.model, false));
  if (flags.keep) text.session().Detach();
  WEIR_RETURN_IF_ERROR(text.Say(prompt));
  v1::GenerateRequest request = flags.sampling.Request();
  request.set_want_log_probs(flags.log_probs);
  const absl::Time begin = absl::Now();
  const absl::StatusOr<GenerationEnd> end = text.Continue(request);
  if (!end.ok()) {
    // Whatever comes next begins on a line of its own.
    if (!tool.json() && tool.out().out_is_terminal()) tool.out().Write("\n");
    return end.status();
  }
  Report(tool, text.session(), *end, absl::Now() - begin);
  if (flags.keep && text.created() && !tool.json()) {
    tool.out().Note("session " + text.session().id() + " stays open\n");
  }
  return absl::OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Tool& tool) {
  CLI::App* command =
      app.add_subcommand("generate", "Continue a session with sampled tokens");
  auto flags = std::make_shared<GenerateFlags>();
  command
      ->add_option("--session",
                   flags->session_id,
                   "Session to continue. Without it: a new one, closed at the "
                   "end")
      ->type_name("ID");
  command->add_option("--model", flags->model, "Model of a new session")
      ->type_name("MODEL");
  command
      ->add_option("--prompt",
                   flags->prompt,
                   "Text to append first; - is standard input")
      ->type_name("TEXT");
  flags->sampling.AddTo(*command, 256);
  command->add_flag("--log-probs",
                    flags->log_probs,
                    "With --json: the log-probability of each token");
  command->add_flag("--keep", flags->keep, "Leave a new session open");
  command->callback([flags, &tool] {
    tool.set_command([flags, &tool] { return RunGenerate(tool, *flags); });
  });
}

}  // namespace weir::client
