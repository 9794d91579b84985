// SPDX-License-Identifier: Apache-2.0
//
// `weir models inspect`: what a model's folder holds, without a server. Reading
// it is the business of the program that would serve it: weir-server --inspect
// does, and this shows what it says.
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/format.h"
#include "client/program.h"
#include "client/tool.h"

namespace weir::client {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kServerProgram[] = "weir-server";
// Stands before what a folder is refused for.
constexpr std::string_view kRefusal = "weir-server: --model: ";

absl::StatusOr<Json> Inspect(const std::string& folder) {
  // With a name, so that no '=' of the folder is taken for one.
  WEIR_ASSIGN_OR_RETURN(
      const ProgramResult result,
      RunProgram(kServerProgram,
                 {"--inspect", "--model", "inspected=" + folder}));
  if (result.code != 0) {
    std::string_view why = result.err;
    if (why.starts_with(kRefusal)) why.remove_prefix(kRefusal.size());
    while (why.ends_with('\n')) why.remove_suffix(1);
    return absl::FailedPreconditionError(
        why.empty() ? absl::StrCat(kServerProgram, " ended with ", result.code)
                    : std::string(why));
  }
  Json json = Json::parse(result.out, /*cb=*/nullptr, /*exceptions=*/false);
  if (!json.is_object() || !json.contains("state") ||
      !json.contains("positions_max")) {
    return absl::InternalError(absl::StrCat(
        kServerProgram, " --inspect gave no JSON; is it of another version?"));
  }
  return json;
}

std::string ShapeText(const Json& shape) {
  std::string text;
  for (const Json& extent : shape) {
    absl::StrAppend(&text, text.empty() ? "" : " x ", extent.get<int64_t>());
  }
  return text;
}

// "layers.12.conv" -> "layers.*.conv".
std::string WithoutNumbers(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool digit = std::isdigit(static_cast<unsigned char>(name[i])) != 0;
    if (!digit || (i > 0 && name[i - 1] != '.' && out.back() != '*')) {
      out += name[i];
    } else if (out.empty() || out.back() != '*') {
      out += '*';
    }
  }
  return out;
}

// The tensors of a state, those that differ by their layer alone as one.
std::string StateTable(const Json& state) {
  struct Group {
    std::string name;
    std::string shape;
    uint64_t each = 0;
    uint64_t count = 0;
  };
  std::vector<Group> groups;
  for (const Json& tensor : state) {
    const Group one = {WithoutNumbers(tensor["name"].get<std::string>()),
                       ShapeText(tensor["shape"]),
                       tensor["bytes"].get<uint64_t>()};
    const auto same =
        std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
          return group.name == one.name && group.shape == one.shape;
        });
    (same == groups.end() ? groups.emplace_back(one) : *same).count += 1;
  }
  std::vector<std::vector<std::string>> rows = {
      {"STATE", "SHAPE", "BYTES", "TIMES", "TOGETHER"}};
  for (const Group& group : groups) {
    rows.push_back({group.name,
                    group.shape,
                    FormatBytes(group.each),
                    FormatCount(group.count),
                    FormatBytes(group.each * group.count)});
  }
  return FormatTable(rows);
}

std::string CountOr(const Json& number, const char* otherwise) {
  return number.is_null() ? otherwise : FormatCount(number.get<uint64_t>());
}

// "f32", or "7,000 bf16 and 64 f32".
std::string Dtypes(const Json& parameters_of) {
  if (parameters_of.size() == 1) return parameters_of.begin().key();
  std::string text;
  for (const auto& [dtype, count] : parameters_of.items()) {
    absl::StrAppend(&text,
                    text.empty() ? "" : " and ",
                    FormatCount(count.get<uint64_t>()),
                    " ",
                    dtype);
  }
  return text;
}

void Show(Tool& tool, const Json& model) {
  const Json& tokenizer = model["tokenizer"];
  const std::pair<const char*, std::string> lines[] = {
      {"family", model["family"].get<std::string>()},
      {"parameters",
       absl::StrCat(CountOr(model["parameters"], "0"),
                    " (",
                    Dtypes(model["parameters_of"]),
                    "), ",
                    FormatBytes(model["weight_bytes"].get<uint64_t>()))},
      {"layers", CountOr(model["layers"], "0")},
      {"vocabulary", CountOr(model["vocabulary"], "0")},
      {"tokenizer",
       tokenizer.is_null() ? "none: token ids only"
                           : absl::StrCat(tokenizer["kind"].get<std::string>(),
                                          ", ",
                                          CountOr(tokenizer["tokens"], "0"),
                                          " tokens")},
      {"start token", CountOr(model["start_token"], "none")},
      {"trained length",
       model["trained_length"].is_null()
           ? "not said"
           : CountOr(model["trained_length"], "") + " tokens"},
      {"positions max",
       model["positions_max"].is_null()
           ? "no limit"
           : CountOr(model["positions_max"], "") + " tokens"},
      {"state",
       absl::StrCat(FormatBytes(model["state_bytes"].get<uint64_t>()),
                    " a session, ",
                    CountOr(model["sessions_per_gib"], "0"),
                    " sessions a GiB")}};
  for (const auto& [name, value] : lines) {
    std::string head = name;
    head.resize(16, ' ');
    tool.out().Write(head + value + "\n");
  }
  for (const Json& note : model["notes"]) {
    tool.out().Write("note            " + note.get<std::string>() + "\n");
  }
  tool.out().Write("\n" + StateTable(model["state"]));
}

}  // namespace

void AddInspectCommand(CLI::App& models, Tool& tool) {
  CLI::App* command = models.add_subcommand(
      "inspect", "Show what a model's folder holds, without a server");
  auto folder = std::make_shared<std::string>();
  command->add_option("DIR", *folder, "Folder with config.json and weights")
      ->required()
      ->type_name("DIR");
  command->footer(
      "Reads the configuration, the headers of the weights and the tokenizer, "
      "as weir-server would, which it calls; refuses what that refuses.");
  command->callback([folder, &tool] {
    tool.set_command([folder, &tool]() -> absl::Status {
      WEIR_ASSIGN_OR_RETURN(const Json model, Inspect(*folder));
      if (tool.json()) {
        tool.out().Json(model);
      } else {
        Show(tool, model);
      }
      return absl::OkStatus();
    });
  });
}

}  // namespace weir::client
