// SPDX-License-Identifier: Apache-2.0
//
// `weir models`: what the server serves. Its sub-command inspect looks at a
// folder.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "client/client.h"
#include "client/format.h"
#include "client/tool.h"

namespace weir::client {
namespace {

nlohmann::ordered_json ToJson(const v1::Model& model) {
  nlohmann::ordered_json json = {{"name", model.name()},
                                 {"family", model.family()},
                                 {"parameters", model.parameters()},
                                 {"layers", model.layers()},
                                 {"dtype", model.dtype()},
                                 {"vocabulary", model.vocabulary()},
                                 {"state_bytes", model.state_bytes()},
                                 {"trained_length", model.trained_length()},
                                 {"positions_max", model.positions_max()},
                                 {"takes_text", model.takes_text()},
                                 {"tokenizer", model.tokenizer()},
                                 {"start_token", nullptr}};
  if (model.has_start_token()) json["start_token"] = model.start_token();
  return json;
}

// Of what is 0 where there is none.
std::string CountOrDash(uint64_t count) {
  return count == 0 ? "-" : FormatCount(count);
}

absl::Status RunModels(Tool& tool, bool only_names) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  WEIR_ASSIGN_OR_RETURN(const std::vector<v1::Model> models,
                        client->ListModels());
  if (tool.json()) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Model& model : models) list.push_back(ToJson(model));
    tool.out().Json({{"models", list}});
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {{"NAME",
                                                 "FAMILY",
                                                 "PARAMETERS",
                                                 "LAYERS",
                                                 "DTYPE",
                                                 "VOCABULARY",
                                                 "STATE",
                                                 "TRAINED LENGTH",
                                                 "POSITIONS MAX",
                                                 "INPUT"}};
  for (const v1::Model& model : models) {
    if (only_names) tool.out().Write(model.name() + "\n");
    rows.push_back({model.name(),
                    model.family(),
                    FormatCount(model.parameters()),
                    FormatCount(model.layers()),
                    model.dtype(),
                    FormatCount(model.vocabulary()),
                    FormatBytes(model.state_bytes()),
                    CountOrDash(model.trained_length()),
                    CountOrDash(model.positions_max()),
                    model.takes_text() ? "text" : "tokens"});
  }
  if (!only_names) tool.out().Write(FormatTable(rows));
  return absl::OkStatus();
}

}  // namespace

void AddModelsCommand(CLI::App& app, Tool& tool) {
  CLI::App* command = app.add_subcommand("models", "List the served models");
  auto only_names = std::make_shared<bool>(false);
  command->add_flag("--names", *only_names, "Names only, one a line");
  AddInspectCommand(*command, tool);
  command->callback([command, only_names, &tool] {
    if (!command->get_subcommands().empty()) return;
    tool.set_command(
        [only_names, &tool] { return RunModels(tool, *only_names); });
  });
}

}  // namespace weir::client
