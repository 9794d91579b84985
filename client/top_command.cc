// SPDX-License-Identifier: Apache-2.0
//
// `weir top`: the metrics page, live.
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "client/flag_range.h"
#include "client/http_get.h"
#include "client/tool.h"
#include "client/top_view.h"

namespace weir::client {
namespace {

constexpr int kWidthOfPipes = 200;
// Rates and quantiles cover this, so that a quiet second does not blank them.
constexpr absl::Duration kWindow = absl::Seconds(5);

struct TopFlags {
  std::string metrics;
  double interval = 1;
  bool once = false;
};

// The metrics page of a server that listens where servers do by themselves.
std::string UsualMetrics(const std::string& server) {
  const std::string address = server.substr(server.rfind('/') + 1);
  return address.substr(0, address.rfind(':')) + ":9470";
}

absl::StatusOr<Reading> Read(const TopFlags& flags) {
  const absl::StatusOr<std::string> text =
      HttpGet(flags.metrics, "/metrics", absl::Seconds(5));
  if (!text.ok()) {
    // Not UNAVAILABLE, which is told as a wrong --server.
    return absl::FailedPreconditionError(
        std::string(text.status().message()) +
        "; say where the server's --metrics-listen is with --metrics "
        "HOST:PORT or WEIR_METRICS");
  }
  const absl::Time time = absl::Now();
  WEIR_ASSIGN_OR_RETURN(MetricsPage page, MetricsPage::Parse(*text));
  return Reading{.page = std::move(page), .time = time};
}

void Show(Tool& tool,
          const TopFlags& flags,
          const Reading& now,
          const Reading* before) {
  Output& out = tool.out();
  if (tool.json()) {
    out.Json(TopJson(now, before));
    return;
  }
  const bool live = out.out_is_terminal() && !flags.once;
  const int width = out.out_is_terminal() ? out.width() : kWidthOfPipes;
  std::string text = RenderTop(now, before, flags.metrics, width);
  if (live) {
    // Line by line over the old picture: clearing all of it first flickers.
    std::string lines;
    for (const char c : text) {
      if (c == '\n') lines += "\x1b[K";
      lines += c;
    }
    text = "\x1b[H" + lines + "\x1b[J";
  } else if (!flags.once) {
    text += "\n";
  }
  out.Write(text);
}

absl::Status RunTop(Tool& tool, TopFlags flags) {
  if (flags.metrics.empty()) flags.metrics = UsualMetrics(tool.server());
  std::deque<Reading> earlier;
  const bool live = tool.out().out_is_terminal() && !flags.once && !tool.json();
  // The alternate screen, so that the terminal is left as it was found.
  if (live) tool.out().Write("\x1b[?1049h\x1b[?25l");
  absl::Status status;
  while (true) {
    absl::StatusOr<Reading> now = Read(flags);
    status = now.status();
    if (!status.ok()) break;
    Show(tool, flags, *now, earlier.empty() ? nullptr : &earlier.front());
    while (earlier.size() > 1 && now->time - earlier[0].time >= kWindow) {
      earlier.pop_front();
    }
    earlier.push_back(*std::move(now));
    if (flags.once || tool.out().broken()) break;
    if (!tool.cancellation()->WaitFor(absl::Seconds(flags.interval))) {
      status = absl::CancelledError("interrupted");
      break;
    }
  }
  if (live) tool.out().Write("\x1b[?25h\x1b[?1049l");
  return status;
}

}  // namespace

void AddTopCommand(CLI::App& app, Tool& tool) {
  CLI::App* command =
      app.add_subcommand("top", "Watch a server's metrics page");
  auto flags = std::make_shared<TopFlags>();
  command
      ->add_option("--metrics",
                   flags->metrics,
                   "Where the server's --metrics-listen is; without it: port "
                   "9470 of --server's host")
      ->envname("WEIR_METRICS")
      ->type_name("HOST:PORT");
  command
      ->add_option("--interval", flags->interval, "Time between two readings")
      ->type_name("SECONDS")
      ->check(Within(0.1, 3600.0))
      ->capture_default_str();
  command->add_flag("--once", flags->once, "Print once, and end");
  command->callback([flags, &tool] {
    tool.set_command([flags, &tool] { return RunTop(tool, *flags); });
  });
}

}  // namespace weir::client
