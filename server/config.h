// SPDX-License-Identifier: Apache-2.0
//
// What the operator asked for: flags over WEIR_* environment over --config FILE
// over defaults. The only reader of flags and environment. Every option has one
// row in a table (config.cc): its name, range and meaning.
//
// Threads: plain values; ReadConfig before any thread is started.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/types.h"

namespace weir::server {

// Where to listen. Port 0: one that is free.
struct Address {
  std::string host;
  uint16_t port = 0;

  // Only this machine can reach it.
  bool loopback() const;
  // "HOST:PORT"; an IPv6 host in brackets.
  std::string text() const;
};

struct Config {
  std::string model_name;
  std::string model_dir;
  Address listen;
  std::optional<Address> metrics_listen;
  std::optional<Address> admin_listen;
  // Whether the model computes on a GPU, and there in fp32.
  bool cuda = false;
  bool fp32 = false;
  bool bf16_state = false;  // how states rest there
  // Whether states are in the ring form.
  bool ring = false;
  // The pool: so many slots, or as many as fit in so many bytes; on a GPU 0
  // bytes are what the card has left.
  std::optional<int32_t> slots;
  uint64_t pool_bytes = 0;
  int32_t threads = 0;
  service::Limits limits;
  int32_t connections_max = 0;
  absl::Duration drain;
  bool allow_nonfinite = false;
  bool check_only = false;
  bool inspect_only = false;

  // Every option and where its value comes from, for --check-config.
  std::vector<std::string> lines;
};

// What ends the process before anything is started: --help and --version
// (exit code 0), or a wrong value (2).
struct ConfigExit {
  int code = 0;
  std::string text;
};

struct ConfigOrExit {
  std::optional<Config> config;
  ConfigExit exit;
};

// `environment`: the process's, as "NAME=value".
ConfigOrExit ReadConfig(const std::vector<std::string>& arguments,
                        const std::vector<std::string>& environment);

// "HOST:PORT" with a host name, an IPv4 address or an IPv6 one in brackets.
absl::StatusOr<Address> ParseAddress(std::string_view text);

}  // namespace weir::server
