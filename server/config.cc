// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/option_table.h"
#include "server/version.h"

namespace weir::server {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;

// In rising order of who wins.
enum class Source { kDefault, kFile, kEnvironment, kFlag };

struct Value {
  std::string text;
  Source source = Source::kDefault;
};

using Values = std::map<std::string, Value, std::less<>>;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

absl::Status SetValue(Values& values,
                      const Option& option,
                      const std::string& text,
                      Source source) {
  WEIR_RETURN_IF_ERROR(CheckValue(option, text));
  Value& value = values[std::string(option.name)];
  if (value.source <= source) value = {text, source};
  return absl::OkStatus();
}

// Kubernetes sets these for every Service, one named "weir" or "weir-x" too:
// NAME_SERVICE_HOST, NAME_SERVICE_PORT, NAME_SERVICE_PORT_GRPC, NAME_PORT,
// NAME_PORT_7070_TCP and this with _PROTO, _PORT and _ADDR. NAME_PORT alone is
// a URL, which tells it from an option that somebody misspelt.
bool IsServiceLink(std::string_view name, std::string_view value) {
  if (name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") ||
      name.find("_SERVICE_PORT_") != std::string_view::npos ||
      (name.ends_with("_PORT") &&
       value.find("://") != std::string_view::npos)) {
    return true;
  }
  for (const std::string_view end : {"_PROTO", "_PORT", "_ADDR"}) {
    if (name.ends_with(end)) name.remove_suffix(end.size());
  }
  for (const std::string_view protocol : {"_TCP", "_UDP", "_SCTP"}) {
    if (!name.ends_with(protocol)) continue;
    name.remove_suffix(protocol.size());
    const size_t number = name.find_last_not_of("0123456789") + 1;
    return number < name.size() && name.substr(0, number).ends_with("_PORT_");
  }
  return false;
}

// The tool's variables; both programs may share one environment.
bool IsOfTheTool(std::string_view name) {
  return name == "WEIR_SERVER" || name == "WEIR_METRICS";
}

absl::Status ReadEnvironment(const std::vector<std::string>& environment,
                             Values& values) {
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    if (!name.starts_with("WEIR_")) continue;
    const auto option = std::find_if(
        Options().begin(), Options().end(), [&](const Option& row) {
          return EnvironmentName(row) == name;
        });
    const std::string value =
        equals == std::string::npos ? "" : entry.substr(equals + 1);
    if (option == Options().end()) {
      if (IsServiceLink(name, value) || IsOfTheTool(name)) continue;
      return Invalid(absl::StrCat(name, ": no such option in the environment"));
    }
    const absl::Status set =
        SetValue(values, *option, value, Source::kEnvironment);
    if (!set.ok()) {
      return Invalid(absl::StrCat(name, ": ", set.message()));
    }
  }
  return absl::OkStatus();
}

// Others may change a file that they can write, and with it what this process
// does.
absl::StatusOr<std::string> ReadGuardedFile(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return Invalid(absl::StrCat("--config: no file ", path));
  }
  if ((status.st_mode & S_IWOTH) != 0) {
    return Invalid(absl::StrCat(
        "--config: ", path, " can be written by everyone; chmod o-w it"));
  }
  if (static_cast<size_t>(status.st_size) > kFileBytesMax) {
    return Invalid(absl::StrCat(
        "--config: ", path, " is larger than ", kFileBytesMax, " bytes"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return Invalid(absl::StrCat("--config: cannot read ", path));
  return text;
}

absl::Status ReadFile(const std::string& path, Values& values) {
  WEIR_ASSIGN_OR_RETURN(const std::string text, ReadGuardedFile(path));
  std::set<std::string> seen;
  std::string twice;
  const auto note_keys =
      [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& key) {
        if (event == nlohmann::json::parse_event_t::key && depth == 1 &&
            !seen.insert(key.get<std::string>()).second) {
          twice = key.get<std::string>();
        }
        return true;
      };
  const auto json = nlohmann::json::parse(text, note_keys, false);
  if (!json.is_object()) {
    return Invalid(absl::StrCat("--config: ", path, " is not a JSON object"));
  }
  if (!twice.empty()) {
    return Invalid(absl::StrCat("--config: ", path, ": ", twice, " twice"));
  }
  for (const auto& [name, value] : json.items()) {
    const Option* option = FindOption(name);
    if (option == nullptr || name == "config") {
      return Invalid(absl::StrCat(
          "--config: ", path, ": no option ", name.substr(0, 200)));
    }
    if (value.is_structured() || value.is_null()) {
      return Invalid(absl::StrCat("--config: ",
                                  path,
                                  ": ",
                                  name,
                                  " is not a text, number or truth value"));
    }
    const absl::Status set =
        SetValue(values,
                 *option,
                 value.is_string() ? value.get<std::string>() : value.dump(),
                 Source::kFile);
    if (!set.ok()) {
      return Invalid(absl::StrCat("--config: ", path, ": ", set.message()));
    }
  }
  return absl::OkStatus();
}

// CLI11 only cuts the command line up; values are checked as all others are.
std::optional<ConfigExit> ReadFlags(std::vector<std::string> arguments,
                                    Values& values) {
  CLI::App app{
      "weir-server: serves a linear-attention language model, one "
      "state of constant size a session.",
      "weir-server"};
  app.set_version_flag("--version", std::string("weir-server ") + kVersion);
  std::map<std::string, std::string> texts;
  std::map<std::string, bool> switches;
  std::map<std::string, CLI::Option*> options;
  for (const Option& row : Options()) {
    const std::string name(row.name);
    std::string help(row.help);
    if (!row.initial.empty() && row.kind != OptionKind::kSwitch) {
      help += absl::StrCat(" Default: ", std::string(row.initial), ".");
    }
    if (row.kind == OptionKind::kSwitch) {
      options[name] = app.add_flag("--" + name, switches[name], help)
                          ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    } else {
      options[name] = app.add_option("--" + name, texts[name], help)
                          ->type_name(std::string(row.value));
    }
  }
  try {
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    return ConfigExit{0, app.help()};
  } catch (const CLI::CallForVersion& version) {
    return ConfigExit{0, std::string(version.what()) + "\n"};
  } catch (const CLI::Error& error) {
    return ConfigExit{2, error.what()};
  }
  for (const Option& row : Options()) {
    const std::string name(row.name);
    if (options[name]->count() == 0) continue;
    const bool is_switch = row.kind == OptionKind::kSwitch;
    const absl::Status set =
        SetValue(values,
                 row,
                 is_switch ? (switches[name] ? "true" : "false") : texts[name],
                 Source::kFlag);
    if (!set.ok()) return ConfigExit{2, std::string(set.message())};
  }
  return std::nullopt;
}

bool IsName(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  if (name.empty() || name.size() > 64 || !plain(name[0])) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) {
    return plain(c) || c == '.' || c == '_' || c == '-';
  });
}

// The folder's name in lower case, with '-' for what a name may not hold.
std::string NameOfFolder(const std::string& folder) {
  const std::filesystem::path path =
      std::filesystem::path(folder + "/").lexically_normal().parent_path();
  std::string name;
  for (char c : path.filename().string()) {
    const char lower = static_cast<char>(std::tolower(static_cast<uint8_t>(c)));
    const bool begins = name.empty();
    if (IsName(std::string("a") + lower) && !(begins && !IsName({&lower, 1}))) {
      name += lower;
    } else if (!begins) {
      name += '-';
    }
    if (name.size() == 64) break;
  }
  return name.empty() ? "model" : name;
}

absl::Status ReadModel(const std::string& value, Config& config) {
  const size_t equals = value.find('=');
  if (equals == std::string::npos) {
    config.model_dir = value;
    config.model_name = NameOfFolder(value);
    return absl::OkStatus();
  }
  config.model_name = value.substr(0, equals);
  config.model_dir = value.substr(equals + 1);
  if (!IsName(config.model_name) || config.model_dir.empty()) {
    return Invalid(absl::StrCat(
        "--model: \"",
        value.substr(0, 200),
        "\" is not [NAME=]DIR with a NAME of [a-z0-9][a-z0-9._-]{0,63}"));
  }
  return absl::OkStatus();
}

// The pool is given once: what comes from a stronger source wins, two of the
// same are a contradiction.
absl::Status SettlePool(Values& values) {
  const auto slots = values.find("slots");
  if (slots == values.end()) return absl::OkStatus();
  Value& bytes = values["pool-bytes"];
  if (bytes.source == slots->second.source) {
    return Invalid("--slots and --pool-bytes: give one of them");
  }
  if (bytes.source > slots->second.source) values.erase(slots);
  return absl::OkStatus();
}

// What is another default on a GPU, and what a CPU does not do.
absl::Status SettleDevice(Values& values, Config& config) {
  config.cuda = values["device"].text == "cuda";
  const auto compute = values.find("compute");
  if (compute == values.end()) {
    config.fp32 = !config.cuda;
  } else {
    config.fp32 = compute->second.text == "fp32";
  }
  config.bf16_state = values["state-number"].text == "bf16";
  config.ring = values["state-form"].text == "ring";
  if (config.ring && config.bf16_state) {
    return Invalid("--state-form ring goes with --state-number fp32");
  }
  if (!config.cuda) {
    if (config.bf16_state) {
      return Invalid(
          "--state-number bf16 goes with --device cuda; a CPU has fp32");
    }
    if (config.ring) {
      return Invalid("--state-form ring goes with --device cuda");
    }
    if (config.fp32) return absl::OkStatus();
    return Invalid("--compute bf16 goes with --device cuda; a CPU has fp32");
  }
  for (const auto& [name, text] :
       {std::pair("step-tokens", "8192"), std::pair("step-rows", "512")}) {
    Value& value = values[name];
    if (value.source == Source::kDefault) value.text = text;
  }
  const auto bytes = values.find("pool-bytes");
  if (bytes->second.source == Source::kDefault) values.erase(bytes);
  return absl::OkStatus();
}

absl::Status CheckTogether(const Config& config, bool allow_plaintext) {
  if (config.limits.idle_timeout_default > config.limits.idle_timeout_max) {
    return Invalid("--idle-seconds is above --idle-seconds-max");
  }
  if (allow_plaintext) return absl::OkStatus();
  const auto refused = [](std::string_view flag, const Address& address) {
    return Invalid(absl::StrCat(
        "--",
        std::string(flag),
        ": ",
        address.text(),
        " is reached from other machines and nothing is encrypted; listen on "
        "127.0.0.1 behind a proxy, or say --allow-plaintext"));
  };
  if (!config.listen.loopback()) return refused("listen", config.listen);
  if (config.admin_listen && !config.admin_listen->loopback()) {
    return refused("admin-listen", *config.admin_listen);
  }
  return absl::OkStatus();
}

std::vector<std::string> Lines(const Values& values) {
  static constexpr const char* kSources[] = {
      "default", "file", "environment", "flag"};
  std::vector<std::string> lines;
  for (const auto& [name, value] : values) {
    lines.push_back(absl::StrCat(name,
                                 " = ",
                                 value.text,
                                 "  (",
                                 kSources[static_cast<int>(value.source)],
                                 ")"));
  }
  return lines;
}

void SetLimits(const std::function<uint64_t(std::string_view)>& number,
               service::Limits& limits) {
  limits.queue_max = static_cast<int32_t>(number("queue"));
  limits.waiting_tokens_max = static_cast<int64_t>(number("waiting-tokens"));
  limits.append_tokens_max = static_cast<int32_t>(number("append-tokens"));
  limits.step_tokens_max = static_cast<int32_t>(number("step-tokens"));
  limits.step_rows_max = static_cast<int32_t>(number("step-rows"));
  limits.session_tokens_max = number("session-tokens");
  limits.log_bytes_max = number("log-bytes");
  limits.generate_tokens_max = static_cast<uint32_t>(number("generate-tokens"));
  limits.slow_consumer_after = absl::Seconds(number("slow-consumer-seconds"));
  limits.idle_timeout_default = absl::Seconds(number("idle-seconds"));
  limits.idle_timeout_max = absl::Seconds(number("idle-seconds-max"));
}

absl::StatusOr<Config> Settle(Values values) {
  Config config;
  WEIR_RETURN_IF_ERROR(SettlePool(values));
  WEIR_RETURN_IF_ERROR(SettleDevice(values, config));
  const auto text = [&](std::string_view name) {
    const auto found = values.find(name);
    return found == values.end() ? std::string() : found->second.text;
  };
  const std::function<uint64_t(std::string_view)> number =
      [&](std::string_view name) {
        return NumberOf(*FindOption(name), text(name));
      };
  const auto address_or_off = [&](std::string_view name) {
    const absl::StatusOr<Address> address = ParseAddress(text(name));
    return address.ok() ? std::optional<Address>(*address) : std::nullopt;
  };
  if (text("model").empty()) {
    return Invalid("--model is missing: the folder of the model to serve");
  }
  WEIR_RETURN_IF_ERROR(ReadModel(text("model"), config));
  WEIR_ASSIGN_OR_RETURN(config.listen, ParseAddress(text("listen")));
  config.metrics_listen = address_or_off("metrics-listen");
  config.admin_listen = address_or_off("admin-listen");
  if (values.contains("slots")) {
    config.slots = static_cast<int32_t>(number("slots"));
  }
  if (values.contains("pool-bytes")) {
    config.pool_bytes = number("pool-bytes");
  }
  config.threads = static_cast<int32_t>(number("threads"));
  SetLimits(number, config.limits);
  config.connections_max = static_cast<int32_t>(number("connections"));
  config.drain = absl::Seconds(number("drain-seconds"));
  config.allow_nonfinite = text("allow-nonfinite") == "true";
  config.check_only = text("check-config") == "true";
  config.inspect_only = text("inspect") == "true";
  WEIR_RETURN_IF_ERROR(
      CheckTogether(config, text("allow-plaintext") == "true"));
  config.lines = Lines(values);
  return config;
}

Values Defaults() {
  Values values;
  for (const Option& option : Options()) {
    if (option.initial.empty()) continue;
    values[std::string(option.name)] = {std::string(option.initial)};
  }
  values["threads"] = {
      absl::StrCat(std::max(1u, std::thread::hardware_concurrency()))};
  return values;
}

ConfigOrExit Wrong(const absl::Status& status) {
  return {std::nullopt, {2, std::string(status.message())}};
}

}  // namespace

bool Address::loopback() const {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == 127;
  }
  return host == "localhost" || host == "::1";
}

std::string Address::text() const {
  const bool brackets = host.find(':') != std::string::npos;
  return absl::StrCat(
      brackets ? "[" : "", host, brackets ? "]" : "", ":", port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  const auto wrong = [] { return Invalid("not HOST:PORT"); };
  if (colon == std::string_view::npos || colon == 0) return wrong();
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    if (host.find(':') == std::string_view::npos) return wrong();
  } else if (host.find_first_of("[]:") != std::string_view::npos) {
    return wrong();
  }
  const bool plain = std::all_of(host.begin(), host.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == ':' || c == '-';
  });
  if (host.empty() || !plain) return wrong();
  Address address{.host = std::string(host)};
  const auto [rest, error] =
      std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || rest != port.data() + port.size()) return wrong();
  return address;
}

ConfigOrExit ReadConfig(const std::vector<std::string>& arguments,
                        const std::vector<std::string>& environment) {
  Values values = Defaults();
  if (std::optional<ConfigExit> exit = ReadFlags(arguments, values)) {
    return {std::nullopt, *exit};
  }
  if (const absl::Status read = ReadEnvironment(environment, values);
      !read.ok()) {
    return Wrong(read);
  }
  if (const auto file = values.find("config"); file != values.end()) {
    const std::string path = file->second.text;
    if (const absl::Status read = ReadFile(path, values); !read.ok()) {
      return Wrong(read);
    }
  }
  absl::StatusOr<Config> config = Settle(std::move(values));
  if (!config.ok()) return Wrong(config.status());
  return {*std::move(config), {}};
}

}  // namespace weir::server
