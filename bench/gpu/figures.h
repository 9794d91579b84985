// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark found, by name, as the JSON object that bench/gpu/ is read
// by: ./run bench --gpu.
//
// Threads: one.
#pragma once

#include <cstdio>
#include <map>
#include <string>

namespace weir::gpu {

using Figures = std::map<std::string, double>;

inline void Print(const Figures& figures) {
  const char* separator = "{\n";
  for (const auto& [name, number] : figures) {
    std::printf("%s  \"%s\": %.6g", separator, name.c_str(), number);
    separator = ",\n";
  }
  std::printf("%s}\n", figures.empty() ? "{" : "\n");
}

}  // namespace weir::gpu
