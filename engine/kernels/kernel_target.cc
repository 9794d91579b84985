// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/kernel_target.h"

#include <atomic>

namespace weir::engine {
namespace {

// Best first, never empty.
const std::vector<const KernelTable*>& Available() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found;
#if defined(__x86_64__)
    const bool has_fma = __builtin_cpu_supports("fma");
    if (has_fma && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      found.push_back(&kAvx512Kernels);
    }
    if (has_fma && __builtin_cpu_supports("avx2")) {
      found.push_back(&kAvx2Kernels);
    }
#endif
    found.push_back(&kBaselineKernels);
    return found;
  }();
  return tables;
}

std::atomic<const KernelTable*>& Forced() {
  static std::atomic<const KernelTable*> forced = nullptr;
  return forced;
}

}  // namespace

const KernelTable& Kernels() {
  const KernelTable* forced = Forced().load(std::memory_order_acquire);
  return forced != nullptr ? *forced : *Available().front();
}

std::vector<std::string_view> KernelTargets() {
  std::vector<std::string_view> names;
  for (const KernelTable* table : Available()) names.emplace_back(table->name);
  return names;
}

bool ForceKernelTarget(std::string_view name) {
  if (name.empty()) {
    Forced().store(nullptr, std::memory_order_release);
    return true;
  }
  for (const KernelTable* table : Available()) {
    if (name == table->name) {
      Forced().store(table, std::memory_order_release);
      return true;
    }
  }
  return false;
}

void ForceKernelTable(const KernelTable* table) {
  Forced().store(table, std::memory_order_release);
}

}  // namespace weir::engine
