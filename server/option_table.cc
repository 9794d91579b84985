// SPDX-License-Identifier: Apache-2.0
#include "server/option_table.h"

#include <charconv>
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/config.h"

namespace weir::server {
namespace {

constexpr uint64_t kBytesMost = uint64_t{1} << 46;

constexpr Option kOptions[] = {
    {"model",
     OptionKind::kText,
     "[NAME=]DIR",
     "",
     "Folder of the model to serve (config.json, safetensors). NAME: "
     "[a-z0-9][a-z0-9._-]{0,63}; without it, the folder's name."},
    {"listen",
     OptionKind::kAddress,
     "HOST:PORT",
     "127.0.0.1:7070",
     "Where clients connect. Port 0: a free one, printed at start."},
    {"metrics-listen",
     OptionKind::kAddressOrOff,
     "HOST:PORT|off",
     "127.0.0.1:9470",
     "Where /metrics, /healthz and /readyz are served."},
    {"admin-listen",
     OptionKind::kAddressOrOff,
     "HOST:PORT|off",
     "off",
     "Where the Admin service is served."},
    {"config",
     OptionKind::kText,
     "FILE",
     "",
     "JSON object of option names and values. Refused if others can write it."},
    {"device",
     OptionKind::kChoice,
     "cpu|cuda",
     "cpu",
     "Where the model computes and states live; cuda: an NVIDIA GPU."},
    {"compute",
     OptionKind::kChoice,
     "bf16|fp32",
     "",
     "What products are made of; sums are fp32 with either. "
     "Default: bf16 with --device cuda; a CPU has fp32 only."},
    {"state-number",
     OptionKind::kChoice,
     "fp32|bf16",
     "fp32",
     "How states rest between steps, rounded by chance to bf16; sums are fp32 "
     "with either. bf16 goes with --device cuda."},
    {"state-form",
     OptionKind::kChoice,
     "write|ring",
     "write",
     "How steps of one token leave a state: written in each, or kept in a ring "
     "beside it and written once in 8. With --device cuda and Gated "
     "DeltaNet."},
    {"slots",
     OptionKind::kNumber,
     "N",
     "",
     "Sessions that the pool holds. Not with --pool-bytes.",
     1,
     1'000'000},
    {"pool-bytes",
     OptionKind::kBytes,
     "BYTES",
     "1GiB",
     "Size of the pool of states; KiB, MiB, GiB, TiB may follow. Not with "
     "--slots. With --device cuda the default is what the card has left.",
     1024,
     kBytesMost},
    {"log-bytes",
     OptionKind::kBytes,
     "BYTES",
     "512MiB",
     "Host memory of the logs of all sessions: 4 bytes a token, 8 with its "
     "score. More is refused with LOG_FULL.",
     1 << 20,
     kBytesMost},
    {"threads",
     OptionKind::kNumber,
     "N",
     "",
     "Threads of the engine on a CPU. Default: one a core.",
     1,
     1024},
    {"step-tokens",
     OptionKind::kNumber,
     "N",
     "512",
     "Tokens of a step at most, over all its rows. With --device cuda the "
     "default is 8192.",
     1,
     65'536},
    {"step-rows",
     OptionKind::kNumber,
     "N",
     "256",
     "Rows of a step at most. With --device cuda the default is 512.",
     1,
     65'536},
    {"append-tokens",
     OptionKind::kNumber,
     "N",
     "65536",
     "Tokens of an append at most.",
     1,
     65'536},
    {"generate-tokens",
     OptionKind::kNumber,
     "N",
     "65536",
     "Tokens of a generation at most.",
     1,
     16'777'216},
    {"session-tokens",
     OptionKind::kNumber,
     "N",
     "1099511627776",
     "Tokens of a session at most.",
     1,
     uint64_t{1} << 40},
    {"queue",
     OptionKind::kNumber,
     "N",
     "4096",
     "Requests in flight at most; more are refused with QUEUE_FULL.",
     1,
     1'000'000},
    {"waiting-tokens",
     OptionKind::kNumber,
     "N",
     "67108864",
     "Tokens of accepted appends that wait for their steps, at most.",
     1,
     uint64_t{1} << 40},
    {"idle-seconds",
     OptionKind::kNumber,
     "N",
     "3600",
     "A session is closed when it has been idle for so long, unless its client "
     "asked otherwise.",
     1,
     31'536'000},
    {"idle-seconds-max",
     OptionKind::kNumber,
     "N",
     "604800",
     "The longest idle time that a client may ask for.",
     1,
     31'536'000},
    {"slow-consumer-seconds",
     OptionKind::kNumber,
     "N",
     "30",
     "A call whose client does not read for so long is ended.",
     1,
     3600},
    {"connections",
     OptionKind::kNumber,
     "N",
     "1024",
     "Connections at most; more are closed at once.",
     1,
     65'536},
    {"drain-seconds",
     OptionKind::kNumber,
     "N",
     "20",
     "How long SIGTERM lets accepted work finish.",
     0,
     3600},
    {"allow-nonfinite",
     OptionKind::kSwitch,
     "",
     "false",
     "Load weights that hold NaN or infinity."},
    {"allow-plaintext",
     OptionKind::kSwitch,
     "",
     "false",
     "Let --listen and --admin-listen take addresses that other machines "
     "reach, although nothing is encrypted: in a container, or behind a proxy "
     "that terminates TLS."},
    {"check-config",
     OptionKind::kSwitch,
     "",
     "false",
     "Check the options and the model's folder, print them and exit."},
    {"inspect",
     OptionKind::kSwitch,
     "",
     "false",
     "Print what the model's folder holds as JSON and exit."},
};

// The whole of `text` as a decimal number.
std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::optional<uint64_t> ParseBytes(std::string_view text) {
  static constexpr std::string_view kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  int shift = 0;
  for (int unit = 0; unit < 4; ++unit) {
    if (!text.ends_with(kUnits[unit])) continue;
    shift = 10 * (unit + 1);
    text.remove_suffix(3);
  }
  const std::optional<uint64_t> number = ParseNumber(text);
  if (!number || *number > std::numeric_limits<uint64_t>::max() >> shift) {
    return std::nullopt;
  }
  return *number << shift;
}

std::optional<uint64_t> ParseAs(OptionKind kind, std::string_view text) {
  return kind == OptionKind::kBytes ? ParseBytes(text) : ParseNumber(text);
}

// Whether `words`, parted by bars, hold `value`.
bool IsAmong(std::string_view words, std::string_view value) {
  while (true) {
    const size_t bar = words.find('|');
    if (words.substr(0, bar) == value) return true;
    if (bar == std::string_view::npos) return false;
    words.remove_prefix(bar + 1);
  }
}

bool IsOff(const std::string& value) { return value.empty() || value == "off"; }

absl::Status Wrong(const Option& option,
                   const std::string& value,
                   std::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("--",
                                                 std::string(option.name),
                                                 ": \"",
                                                 value.substr(0, 200),
                                                 "\" is not ",
                                                 std::string(wanted)));
}

}  // namespace

std::span<const Option> Options() { return kOptions; }

const Option* FindOption(std::string_view name) {
  for (const Option& option : kOptions) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

std::string EnvironmentName(const Option& option) {
  std::string name = "WEIR_";
  for (char c : option.name) {
    name += c == '-' ? '_' : static_cast<char>(c - 'a' + 'A');
  }
  return name;
}

absl::Status CheckValue(const Option& option, const std::string& value) {
  switch (option.kind) {
    case OptionKind::kText:
      if (!value.empty()) return absl::OkStatus();
      return Wrong(option, value, option.value);
    case OptionKind::kAddressOrOff:
      if (IsOff(value)) return absl::OkStatus();
      [[fallthrough]];
    case OptionKind::kAddress:
      if (ParseAddress(value).ok()) return absl::OkStatus();
      return Wrong(option,
                   value,
                   "HOST:PORT with a port from 0 to 65535 (an IPv6 host in "
                   "brackets)");
    case OptionKind::kNumber:
    case OptionKind::kBytes: {
      const std::optional<uint64_t> number = ParseAs(option.kind, value);
      if (number && *number >= option.least && *number <= option.most) {
        return absl::OkStatus();
      }
      return Wrong(
          option,
          value,
          absl::StrCat(
              "a whole number from ", option.least, " to ", option.most));
    }
    case OptionKind::kChoice:
      if (IsAmong(option.value, value)) return absl::OkStatus();
      return Wrong(option, value, option.value);
    case OptionKind::kSwitch:
      if (value == "true" || value == "false") return absl::OkStatus();
      return Wrong(option, value, "true or false");
  }
  return absl::InternalError("an option of no kind");
}

uint64_t NumberOf(const Option& option, const std::string& value) {
  return ParseAs(option.kind, value).value_or(0);
}

}  // namespace weir::server
