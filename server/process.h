// SPDX-License-Identifier: Apache-2.0
//
// The server as a process: reads its options, puts the parts together, says
// where it listens, waits for a signal, drains. It knows no engine and no store
// by name; main.cc does.
//
// Threads: the process's first.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/config.h"
#include "service/store.h"
#include "text/tokenizer.h"

namespace weir::server {

// What a process is made of.
struct ProcessParts {
  std::function<absl::StatusOr<std::unique_ptr<engine::Engine>>(const Config&)>
      load_engine;
  // What the model folder holds, without loading it, and that this build has
  // the device that is asked for.
  std::function<absl::StatusOr<engine::ModelInfo>(const Config&)> inspect_model;
  // The tokenizer in a model folder, for ids below a vocabulary; nullopt where
  // there is none to go by.
  std::function<absl::StatusOr<std::optional<text::Tokenizer>>(
      const std::string&, uint32_t)>
      load_tokenizer;
  std::function<std::unique_ptr<service::Store>()> make_store;
};

// Exit codes beside 0.
inline constexpr int kExitStart = 1;         // the server could not start
inline constexpr int kExitConfig = 2;        // a wrong option
inline constexpr int kExitDeviceFault = 86;  // start it anew, elsewhere

// Runs the server until a signal or a fault of the device ends it; returns the
// exit code. After a fault it does not return, it ends the process.
int RunProcess(int argc, char** argv, const ProcessParts& parts);

}  // namespace weir::server
