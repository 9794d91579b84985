// SPDX-License-Identifier: Apache-2.0
#include "server/process.h"

#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/http_page.h"
#include "server/inspection.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/version.h"
#include "service/service.h"

extern char** environ;

namespace weir::server {
namespace {

// After the last answer, for it to reach its client.
constexpr absl::Duration kFarewell = absl::Seconds(2);
constexpr absl::Duration kHealthEvery = absl::Milliseconds(200);

int Fail(int code, std::string_view sentence) {
  std::fprintf(stderr,
               "weir-server: %.*s\n",
               static_cast<int>(sentence.size()),
               sentence.data());
  return code;
}

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// The engine's OpenMP threads spin while they wait, by default for so long that
// on a busy machine, or within a container's share of one, a step takes 20 ms
// in place of 0.6. This bound costs a quiet machine nothing. libgomp reads it
// when it is loaded, so the program starts itself again once; where that fails
// it goes on as it is.
void BoundSpinning(char** argv) {
  constexpr const char* kSpins = "GOMP_SPINCOUNT";
  if (getenv(kSpins) != nullptr || getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv(kSpins, "10000", 0);
  execv("/proc/self/exe", argv);
}

// Every thread inherits the mask, so that the signals wait for sigtimedwait.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

void StartLog() {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("weir"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v",
                      spdlog::pattern_time_type::utc);
}

std::vector<service::Durability> LevelsOf(const service::Store& store) {
  std::vector<service::Durability> levels;
  for (service::Durability level : {service::Durability::kApplied,
                                    service::Durability::kLocal,
                                    service::Durability::kShared}) {
    if (store.Supports(level)) levels.push_back(level);
  }
  return levels;
}

void PrintModel(const std::string& name, const engine::ModelInfo& model) {
  std::printf("model %s: %s, %llu parameters, %u layers, vocabulary %u, %s\n",
              name.c_str(),
              model.family.c_str(),
              static_cast<unsigned long long>(model.parameters),
              model.layers,
              model.vocabulary,
              model.dtype.c_str());
}

void PrintTokenizer(const std::optional<text::Tokenizer>& tokenizer) {
  if (tokenizer) {
    std::printf(
        "tokenizer %s, %u tokens\n", tokenizer->kind(), tokenizer->size());
  } else {
    std::printf("tokenizer none: token ids only\n");
  }
}

void PrintBanner(const Served& served,
                 int32_t slots,
                 const Server& server,
                 const HttpPage* page) {
  std::printf("weir-server %s (%s)\n", kVersion, kRevision);
  PrintModel(served.name, served.model);
  PrintTokenizer(served.tokenizer);
  std::printf("state %llu bytes a session, %d sessions fit\n",
              static_cast<unsigned long long>(served.model.state_bytes),
              slots);
  if (page != nullptr) {
    std::printf("metrics on %s\n", page->address().text().c_str());
  }
  if (server.admin_address() != nullptr) {
    std::printf("admin on %s\n", server.admin_address()->text().c_str());
  }
  std::printf("listening on %s\n", server.address().text().c_str());
  std::fflush(stdout);
}

// Waits for a signal; false if the device failed first.
bool WaitForSignal(const sigset_t& signals, const service::Service& service) {
  const timespec wait = absl::ToTimespec(kHealthEvery);
  while (service.health().ok()) {
    if (sigtimedwait(&signals, nullptr, &wait) > 0) return true;
  }
  return false;
}

// A second signal ends the process at once.
void ExitOnSecondSignal(const sigset_t& signals) {
  signal(SIGTERM, [](int) { _exit(kExitStart); });
  signal(SIGINT, [](int) { _exit(kExitStart); });
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

[[noreturn]] void EndAfterFault(const service::Service& service,
                                Server& server) {
  spdlog::critical("the device is unfit: {}", Message(service.health()));
  server.Shutdown(kFarewell);
  // The engine is not to be touched again, by a destructor neither.
  std::_Exit(kExitDeviceFault);
}

int ServeUntilSignal(const Config& config,
                     const sigset_t& signals,
                     service::Service& service,
                     Server& server,
                     std::atomic<bool>& ready) {
  ready = true;
  server.SetReady(true);
  const bool told = WaitForSignal(signals, service);
  ready = false;
  server.BeginDrain();
  if (!told) EndAfterFault(service, server);
  spdlog::info("draining for at most {}", absl::FormatDuration(config.drain));
  ExitOnSecondSignal(signals);
  const bool drained = service.Drain(config.drain);
  if (!service.health().ok()) EndAfterFault(service, server);
  if (!drained) spdlog::warn("not all accepted work was done in time");
  server.Shutdown(kFarewell);
  spdlog::info("stopped");
  return EXIT_SUCCESS;
}

int Run(const Config& config,
        const sigset_t& signals,
        const ProcessParts& parts) {
  const service::SteadyClock clock;
  Metrics metrics(RpcNames());
  std::atomic<bool> ready = false;
  std::unique_ptr<HttpPage> page;
  if (config.metrics_listen) {
    auto created = HttpPage::Create(
        *config.metrics_listen, metrics, [&ready] { return ready.load(); });
    if (!created.ok()) return Fail(kExitStart, Message(created.status()));
    page = *std::move(created);
  }

  auto engine = parts.load_engine(config);
  if (!engine.ok()) return Fail(kExitStart, Message(engine.status()));
  auto tokenizer =
      parts.load_tokenizer(config.model_dir, (*engine)->model().vocabulary);
  if (!tokenizer.ok()) return Fail(kExitStart, Message(tokenizer.status()));
  for (const std::string& note : (*engine)->model().notes) {
    spdlog::warn("{}", note);
  }
  const int32_t slots = (*engine)->slots();
  auto store = parts.make_store();
  const Served served{.name = config.model_name,
                      .model = (*engine)->model(),
                      .limits = config.limits,
                      .durability = LevelsOf(*store),
                      .device = config.cuda ? "cuda" : "cpu",
                      .tokenizer = *std::move(tokenizer)};
  metrics.SetServed(served);

  auto service = service::Service::Create({.engine = *std::move(engine),
                                           .store = std::move(store),
                                           .clock = &clock,
                                           .observer = &metrics},
                                          config.limits);
  if (!service.ok()) return Fail(kExitStart, Message(service.status()));

  auto server = Server::Create({.service = service->get(),
                                .metrics = &metrics,
                                .clock = &clock,
                                .served = served},
                               {.listen = config.listen,
                                .admin_listen = config.admin_listen,
                                .connections_max = config.connections_max});
  if (!server.ok()) return Fail(kExitStart, Message(server.status()));

  PrintBanner(served, slots, **server, page.get());
  return ServeUntilSignal(config, signals, **service, **server, ready);
}

// What --check-config and --inspect look at: headers, no weights.
int LookOnly(const Config& config, const ProcessParts& parts) {
  const auto model = parts.inspect_model(config);
  if (!model.ok()) {
    const bool device = absl::IsUnimplemented(model.status());
    return Fail(kExitConfig,
                absl::StrCat(device ? "--device: " : "--model: ",
                             Message(model.status())));
  }
  const auto tokenizer =
      parts.load_tokenizer(config.model_dir, model->vocabulary);
  if (!tokenizer.ok()) {
    return Fail(kExitConfig,
                absl::StrCat("--model: ", Message(tokenizer.status())));
  }
  if (config.inspect_only) {
    std::printf("%s\n",
                InspectionJson(config.model_dir, *model, *tokenizer).c_str());
    return EXIT_SUCCESS;
  }
  for (const std::string& line : config.lines) {
    std::printf("%s\n", line.c_str());
  }
  PrintModel(config.model_name, *model);
  PrintTokenizer(*tokenizer);
  std::printf("state %llu bytes a session\n",
              static_cast<unsigned long long>(model->state_bytes));
  std::printf("the configuration is good\n");
  return EXIT_SUCCESS;
}

}  // namespace

int RunProcess(int argc, char** argv, const ProcessParts& parts) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    environment.emplace_back(*entry);
  }
  const ConfigOrExit read = ReadConfig({argv + 1, argv + argc}, environment);
  if (!read.config) {
    if (read.exit.code != 0) return Fail(read.exit.code, read.exit.text);
    std::fputs(read.exit.text.c_str(), stdout);
    return EXIT_SUCCESS;
  }
  if (read.config->check_only || read.config->inspect_only) {
    return LookOnly(*read.config, parts);
  }
  BoundSpinning(argv);
  StartLog();
  const sigset_t signals = BlockSignals();
  return Run(*read.config, signals, parts);
}

}  // namespace weir::server
