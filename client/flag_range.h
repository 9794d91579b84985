// SPDX-License-Identifier: Apache-2.0
//
// A flag's range of numbers, which --help does not repeat after every name.
//
// Threads: pure function.
#pragma once

#include "CLI/CLI.hpp"

namespace weir::client {

template <typename Number>
CLI::Validator Within(Number least, Number most) {
  CLI::Validator validator = CLI::Range(least, most);
  return validator.description("");
}

}  // namespace weir::client
