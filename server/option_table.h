// SPDX-License-Identifier: Apache-2.0
//
// The options of the server, one row each, and how a text becomes a value.
//
// Threads: constant tables and pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weir::server {

enum class OptionKind {
  kText,     // not empty
  kAddress,  // HOST:PORT
  kAddressOrOff,
  kNumber,
  kBytes,   // a number, or one with KiB, MiB, GiB or TiB
  kChoice,  // one of the words that `value` lists, as "a|b"
  kSwitch   // no value as a flag; true or false elsewhere
};

struct Option {
  std::string_view name;  // the flag without "--"
  OptionKind kind;
  std::string_view value;    // what --help calls the value
  std::string_view initial;  // the default; empty: none
  std::string_view help;
  // Of kNumber and kBytes.
  uint64_t least = 0;
  uint64_t most = 0;
};

std::span<const Option> Options();
const Option* FindOption(std::string_view name);

// "WEIR_METRICS_LISTEN" for metrics-listen.
std::string EnvironmentName(const Option& option);

// Checks a value; the message names the option, the range and what came.
absl::Status CheckValue(const Option& option, const std::string& value);

// REQUIRES: CheckValue is OK.
uint64_t NumberOf(const Option& option, const std::string& value);

}  // namespace weir::server
