// SPDX-License-Identifier: Apache-2.0
//
// What the commands of the `weir` tool share: the global flags, the way to a
// server, errors as one line, exit codes.
//
// Threads: one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cancellation.h"
#include "client/client.h"
#include "client/output.h"

namespace weir::client {

// The process's answer, as --help says.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitInterrupted = 130,
  kExitBrokenPipe = 141,
};

// Where a server is unless --server says else.
constexpr char kServer[] = "127.0.0.1:7070";

class Tool {
 public:
  // `input` is a file descriptor that commands read from for "-".
  Tool(int input, FILE* out, FILE* err);

  // Parses and runs. argv[0] is skipped.
  int Run(int argc, const char* const* argv);

  // For the commands: what Run calls once everything has been parsed.
  void set_command(std::function<absl::Status()> command) {
    command_ = std::move(command);
  }
  // A client of --server, which has been reached.
  absl::StatusOr<Client*> Connect();
  // The model of that name, or the only one if it is empty.
  absl::StatusOr<v1::Model> PickModel(const std::string& name);

  // "weir", with the flags that lead to the same server: for commands that a
  // person may paste.
  std::string Command() const;

  Output& out() { return out_; }
  int input() const { return input_; }
  const std::string& server() const { return server_; }
  bool json() const { return json_; }
  const std::shared_ptr<Cancellation>& cancellation() { return cancellation_; }
  const CLI::App& app() const { return *app_; }

 private:
  void AddFlags();
  std::string Describe(const CLI::ParseError& error) const;
  int Finish(const absl::Status& status);

  const int input_;
  Output out_;
  const std::shared_ptr<Cancellation> cancellation_;
  std::unique_ptr<CLI::App> app_;
  std::string server_ = kServer;
  bool json_ = false;
  bool no_color_ = false;
  double timeout_ = 30;
  std::function<absl::Status()> command_;
  std::unique_ptr<Client> client_;
};

// "message [REASON]; hint", without the program's name.
std::string DescribeError(const absl::Status& status);

// Each adds its command to the tool's tree.
void AddStreamCommand(CLI::App& app, Tool& tool);
void AddGenerateCommand(CLI::App& app, Tool& tool);
void AddChatCommand(CLI::App& app, Tool& tool);
void AddSessionCommand(CLI::App& app, Tool& tool);
void AddModelsCommand(CLI::App& app, Tool& tool);
// To `models`.
void AddInspectCommand(CLI::App& models, Tool& tool);
void AddTopCommand(CLI::App& app, Tool& tool);
void AddCompletionCommand(CLI::App& app, Tool& tool);

}  // namespace weir::client
