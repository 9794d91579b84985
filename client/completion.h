// SPDX-License-Identifier: Apache-2.0
//
// Completion scripts for shells, made from the tree of commands itself, so
// that they cannot lag behind it.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace weir::client {

// What may stand for a value.
struct ValueKind {
  enum class Source { kNone, kFiles, kSessions, kModels, kWords };
  Source source = Source::kNone;
  std::vector<std::string> words;
};

struct OptionSpec {
  std::vector<std::string> names;  // "--json", "-h"
  std::string description;
  bool takes_value = false;
  ValueKind kind;
};

struct CommandSpec {
  std::string path;  // "weir session ls"
  std::string name;
  std::string description;
  std::vector<OptionSpec> options;  // those of the commands above it too
  std::vector<ValueKind> positionals;
  bool last_positional_repeats = false;
  std::vector<CommandSpec> commands;
};

// The tree below `app`.
CommandSpec Describe(const CLI::App& app);

std::string BashCompletion(const CommandSpec& root);
std::string ZshCompletion(const CommandSpec& root);
std::string FishCompletion(const CommandSpec& root);

}  // namespace weir::client
