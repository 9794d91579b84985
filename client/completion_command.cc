// SPDX-License-Identifier: Apache-2.0
//
// `weir completion bash|zsh|fish`.
#include <memory>
#include <string>

#include "client/completion.h"
#include "client/tool.h"

namespace weir::client {
namespace {

absl::Status RunCompletion(Tool& tool, const std::string& shell) {
  const CommandSpec root = Describe(tool.app());
  tool.out().Write(shell == "bash"  ? BashCompletion(root)
                   : shell == "zsh" ? ZshCompletion(root)
                                    : FishCompletion(root));
  return absl::OkStatus();
}

}  // namespace

void AddCompletionCommand(CLI::App& app, Tool& tool) {
  CLI::App* command =
      app.add_subcommand("completion",
                         "Print a completion script: source <(weir completion "
                         "bash)");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "The shell")
      ->type_name("SHELL")
      ->check(CLI::IsMember({"bash", "zsh", "fish"}))
      ->required();
  command->callback([shell, &tool] {
    tool.set_command([shell, &tool] { return RunCompletion(tool, *shell); });
  });
}

}  // namespace weir::client
