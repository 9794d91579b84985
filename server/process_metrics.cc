// SPDX-License-Identifier: Apache-2.0
#include "server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace weir::server {
namespace {

// Fields of /proc/self/stat after the command's name, counted from 0.
struct ProcessStat {
  double user_ticks = 0;      // 11
  double system_ticks = 0;    // 12
  double threads = 0;         // 17
  double start_ticks = 0;     // 19
  double virtual_bytes = 0;   // 20
  double resident_pages = 0;  // 21
};

ProcessStat ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // The name stands in parentheses and may hold any byte.
  const size_t name_end = line.rfind(')');
  ProcessStat stat;
  if (name_end == std::string::npos) return stat;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int n = 0; n <= 21 && fields >> field; ++n) {
    const double value = n == 0 ? 0 : std::strtod(field.c_str(), nullptr);
    if (n == 11) stat.user_ticks = value;
    if (n == 12) stat.system_ticks = value;
    if (n == 17) stat.threads = value;
    if (n == 19) stat.start_ticks = value;
    if (n == 20) stat.virtual_bytes = value;
    if (n == 21) stat.resident_pages = value;
  }
  return stat;
}

// Seconds since 1970 at which the machine was started.
double BootTime() {
  std::ifstream file("/proc/stat");
  std::string key;
  while (file >> key) {
    double seconds = 0;
    if (key == "btime" && file >> seconds) return seconds;
    std::getline(file, key);
  }
  return 0;
}

double OpenFiles() {
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  if (error) return 0;
  // The iterator's own does not count.
  return static_cast<double>(std::distance(begin(files), end(files))) - 1;
}

prometheus::MetricFamily Family(const char* name,
                                const char* help,
                                prometheus::MetricType type,
                                double value) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  metric.counter.value = value;
  return {name, help, type, {metric}};
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics() {
  const ProcessStat stat = ReadStat();
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  const auto gauge = [](const char* name, const char* help, double value) {
    return Family(name, help, prometheus::MetricType::Gauge, value);
  };
  return {
      Family("process_cpu_seconds_total",
             "Processor time, user and system.",
             prometheus::MetricType::Counter,
             (stat.user_ticks + stat.system_ticks) / ticks),
      gauge("process_resident_memory_bytes",
            "Resident memory.",
            stat.resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE))),
      gauge("process_virtual_memory_bytes",
            "Virtual memory.",
            stat.virtual_bytes),
      gauge("process_open_fds", "Open file descriptors.", OpenFiles()),
      gauge("process_max_fds",
            "File descriptors that may be open.",
            static_cast<double>(files.rlim_cur)),
      gauge("process_start_time_seconds",
            "Start of the process, seconds since 1970.",
            BootTime() + stat.start_ticks / ticks),
      gauge("process_threads", "Threads.", stat.threads),
  };
}

}  // namespace weir::server
