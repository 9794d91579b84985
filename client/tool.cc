// SPDX-License-Identifier: Apache-2.0
#include "client/tool.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "client/errors.h"
#include "client/flag_range.h"
#include "client/format.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

constexpr char kDescription[] =
    "Streams documents into sessions of a weir server, and continues them.";
constexpr char kFooter[] =
    "Exit codes: 0 done; 1 refused by the server, or failed; 2 wrong usage;\n"
    "130 interrupted; 141 the reader of the output went away.";

constexpr char kLost[] =
    "its state is of no more use: close it, and stream again into a new one";

// What a person can do about a refusal.
std::string_view HintFor(std::string_view reason) {
  static const std::map<std::string_view, std::string_view> hints = {
      {"SESSION_NOT_FOUND", "weir session ls shows the open ones"},
      {"SESSION_EXPIRED",
       "it was idle for too long: stream again into a new one"},
      {"LOG_FULL", "the server's logs are full: weir session close frees one"},
      {"MODEL_NOT_FOUND", "weir models shows the served ones"},
      {"SESSION_EXISTS", "choose another id, or close that session first"},
      {"POSITION_CONFLICT",
       "the session has read other tokens at these positions"},
      {"POSITION_GAP", "the session is not that far yet"},
      {"SESSION_BUSY", "a generation is running in it: try again later"},
      {"EMPTY_SESSION", "give it a --prompt to start from"},
      {"STATE_POOL_EXHAUSTED",
       "every slot is taken: weir session close frees one"},
      {"QUEUE_FULL", "the server is busy: try again later"},
      {"DEADLINE_IN_QUEUE", "--timeout allows it more time"},
      {"SERVER_DRAINING", "the server is stopping: try again later"},
      {"BAD_ID", "ids are 1 to 128 of a-z 0-9 . _ -"},
      {"TEXT_UNSUPPORTED", "this model takes token ids only"},
      {"TOKEN_OUT_OF_VOCAB", "weir models shows the vocabulary"},
      {"QUARANTINED", kLost},
      {"NON_FINITE_STATE", kLost},
      {"DURABILITY_UNAVAILABLE", "this server has no store for it"},
  };
  const auto found = hints.find(reason);
  return found == hints.end() ? std::string_view() : found->second;
}

std::string_view HintForCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
      return "is weir-server running there? Say where with --server HOST:PORT "
             "or WEIR_SERVER";
    case absl::StatusCode::kDeadlineExceeded:
      return "--timeout sets the limit";
    default:
      return {};
  }
}

std::string OneLine(std::string_view text) {
  std::string line = ForTerminal(ToValidUtf8(text));
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

nlohmann::ordered_json ErrorJson(const absl::Status& status) {
  nlohmann::ordered_json json = {
      {"event", "error"},
      {"code", absl::StatusCodeToString(status.code())},
      {"reason", ReasonOf(status)},
      {"message", std::string(status.message())},
      {"metadata", MetadataOf(status)}};
  return json;
}

}  // namespace

std::string DescribeError(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  std::string line(OneLine(std::string(status.message())));
  if (line.empty()) line = "failed";
  if (line.back() == '.') line.pop_back();
  // Without a reason it came from below the server, or from this program.
  const bool named = !reason.empty() || absl::IsUnavailable(status) ||
                     absl::IsDeadlineExceeded(status) ||
                     absl::IsUnimplemented(status);
  if (named) {
    line += " [" +
            (reason.empty() ? absl::StatusCodeToString(status.code())
                            : OneLine(reason)) +
            "]";
  }
  const std::string_view hint =
      reason.empty() ? HintForCode(status.code()) : HintFor(reason);
  if (!hint.empty()) line += "; " + std::string(hint);
  return line;
}

Tool::Tool(int input, FILE* out, FILE* err)
    : input_(input),
      out_(out, err),
      cancellation_(std::make_shared<Cancellation>()) {
  out_.set_on_broken([this] { cancellation_->Cancel(); });
}

void Tool::AddFlags() {
  app_ = std::make_unique<CLI::App>(kDescription, "weir");
  app_->set_version_flag("--version", "weir " WEIR_VERSION);
  app_->footer(kFooter);
  app_->require_subcommand(1);
  // Global flags may stand behind the command too.
  app_->fallthrough();
  app_->add_option("--server", server_, "Address of the server")
      ->envname("WEIR_SERVER")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app_->add_flag("--json", json_, "Write JSON, one object a line");
  app_->add_flag("--no-color", no_color_, "Write no colours (also: NO_COLOR)");
  app_->add_option("--timeout",
                   timeout_,
                   "Time for a call with all its retries; for a stream, the "
                   "longest silence")
      ->type_name("SECONDS")
      ->check(Within(0.1, 86'400.0))
      ->capture_default_str();
  AddStreamCommand(*app_, *this);
  AddGenerateCommand(*app_, *this);
  AddChatCommand(*app_, *this);
  AddSessionCommand(*app_, *this);
  AddModelsCommand(*app_, *this);
  AddTopCommand(*app_, *this);
  AddCompletionCommand(*app_, *this);
}

std::string Tool::Describe(const CLI::ParseError& error) const {
  // The parser says only that a command is missing where it knows none.
  const std::vector<std::string> unknown = app_->remaining(true);
  if (error.get_name() != "RequiredError" || unknown.empty()) {
    return OneLine(error.what());
  }
  return OneLine(unknown[0]) +
         (unknown[0].starts_with("-") ? " is no option" : " is no command");
}

int Tool::Run(int argc, const char* const* argv) {
  AddFlags();
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream help;
      app_->exit(error, help, help);
      out_.Write(help.str());
      return out_.broken() ? kExitBrokenPipe : kExitOk;
    }
    out_.Note("weir: " + Describe(error) + "; weir --help explains\n");
    return kExitUsage;
  }
  if (no_color_) out_.set_colour(false);
  return Finish(command_());
}

int Tool::Finish(const absl::Status& status) {
  out_.ClearStatus();
  if (out_.broken()) return kExitBrokenPipe;
  if (status.ok()) return kExitOk;
  if (cancellation_->cancelled()) return kExitInterrupted;
  if (json_) out_.Json(ErrorJson(status));
  out_.Note("weir: " + DescribeError(status) + "\n");
  return kExitFailed;
}

absl::StatusOr<Client*> Tool::Connect() {
  if (client_ == nullptr) {
    ClientOptions options;
    options.target = server_;
    options.retry.time_max = absl::Seconds(timeout_);
    // Half, so that a lost answer can be asked for again within the time.
    options.call_deadline = absl::Seconds(timeout_ / 2);
    options.cancellation = cancellation_;
    client_ = std::make_unique<Client>(std::move(options));
    WEIR_RETURN_IF_ERROR(client_->Connect(absl::Seconds(timeout_)));
  }
  return client_.get();
}

std::string Tool::Command() const {
  const char* set = std::getenv("WEIR_SERVER");
  const std::string usual = set == nullptr ? kServer : set;
  return server_ == usual ? "weir"
                          : "weir --server " + FormatShellWord(server_);
}

absl::StatusOr<v1::Model> Tool::PickModel(const std::string& name) {
  WEIR_ASSIGN_OR_RETURN(Client * client, Connect());
  if (!name.empty()) return client->GetModel(name);
  WEIR_ASSIGN_OR_RETURN(const std::vector<v1::Model> models,
                        client->ListModels());
  if (models.size() == 1) return models[0];
  std::string names;
  for (const v1::Model& model : models) names += " " + model.name();
  return absl::InvalidArgumentError(
      models.empty() ? "the server serves no model"
                     : "the server serves several models; choose one with "
                       "--model:" +
                           names);
}

}  // namespace weir::client
