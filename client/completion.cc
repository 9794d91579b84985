// SPDX-License-Identifier: Apache-2.0
#include "client/completion.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

namespace weir::client {
namespace {

using Source = ValueKind::Source;

// The kind by the type name that help shows: FILE, ID, SHELL:{bash,zsh}, ...
ValueKind KindOf(const std::string& type) {
  if (type == "FILE" || type == "DIR" || type.starts_with("OUT")) {
    return {.source = Source::kFiles, .words = {}};
  }
  if (type == "ID") return {.source = Source::kSessions, .words = {}};
  if (type == "MODEL") return {.source = Source::kModels, .words = {}};
  const size_t open = type.find('{');
  const size_t close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos) return {};
  ValueKind kind{.source = Source::kWords, .words = {}};
  std::string word;
  for (const char c : type.substr(open + 1, close - open - 1) + ",") {
    if (c != ',') {
      word += c;
    } else {
      kind.words.push_back(std::exchange(word, std::string()));
    }
  }
  return kind;
}

CommandSpec DescribeBelow(const CLI::App& app, const CommandSpec& above) {
  CommandSpec spec;
  spec.name = app.get_name();
  spec.path = (above.path.empty() ? "" : above.path + " ") + spec.name;
  spec.description = app.get_description();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) {
      spec.positionals.push_back(KindOf(option->get_type_name()));
      spec.last_positional_repeats = option->get_expected_max() > 1;
      continue;
    }
    OptionSpec described{.names = {},
                         .description = option->get_description(),
                         .takes_value = option->get_items_expected_max() > 0,
                         .kind = KindOf(option->get_type_name())};
    for (const std::string& name : option->get_lnames()) {
      described.names.push_back("--" + name);
    }
    for (const std::string& name : option->get_snames()) {
      described.names.push_back("-" + name);
    }
    spec.options.push_back(std::move(described));
  }
  for (const OptionSpec& option : above.options) {
    const bool hidden = std::any_of(
        spec.options.begin(), spec.options.end(), [&](const OptionSpec& own) {
          return own.names == option.names;
        });
    // The version is the program's; every command has a help of its own.
    if (!hidden && option.names[0] != "--version") {
      spec.options.push_back(option);
    }
  }
  for (const CLI::App* command : app.get_subcommands({})) {
    spec.commands.push_back(DescribeBelow(*command, spec));
  }
  return spec;
}

void ForEach(const CommandSpec& spec,
             const std::function<void(const CommandSpec&)>& visit) {
  visit(spec);
  for (const CommandSpec& command : spec.commands) ForEach(command, visit);
}

std::string Join(const std::vector<std::string>& words) {
  std::string joined;
  for (const std::string& word : words) {
    joined += (joined.empty() ? "" : " ") + word;
  }
  return joined;
}

std::vector<std::string> CommandNames(const CommandSpec& spec) {
  std::vector<std::string> names;
  for (const CommandSpec& command : spec.commands) {
    names.push_back(command.name);
  }
  return names;
}

// Within single quotes, for bash and zsh.
std::string Quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// The commands that list what a server holds; quiet where there is none.
constexpr char kListSessions[] =
    "weir session ls --ids --timeout 1 2>/dev/null";
constexpr char kListModels[] = "weir models --names --timeout 1 2>/dev/null";

// What the shell functions call a kind.
std::string KindName(const ValueKind& kind) {
  switch (kind.source) {
    case Source::kFiles:
      return "files";
    case Source::kSessions:
      return "sessions";
    case Source::kModels:
      return "models";
    case Source::kWords:
      return "words " + Join(kind.words);
    case Source::kNone:
      return "none";
  }
  return "none";
}

// case arms that bash and zsh share: which words are commands, which options
// take a value and of which kind, what stands at a position.
std::string CommandArms(const CommandSpec& root) {
  std::string arms;
  ForEach(root, [&](const CommandSpec& spec) {
    if (&spec == &root) return;
    arms += "      " + Quoted(spec.path) +
            ") where=\"$where $word\"; count=0; continue ;;\n";
  });
  return arms;
}

std::string ValueArms(const CommandSpec& root) {
  std::string arms;
  ForEach(root, [&](const CommandSpec& spec) {
    for (const OptionSpec& option : spec.options) {
      if (!option.takes_value) continue;
      for (const std::string& name : option.names) {
        arms += "    " + Quoted(spec.path + " " + name) +
                ") kind=" + Quoted(KindName(option.kind)) + " ;;\n";
      }
    }
  });
  return arms;
}

std::string PositionArms(const CommandSpec& root) {
  std::string arms;
  ForEach(root, [&](const CommandSpec& spec) {
    for (size_t i = 0; i < spec.positionals.size(); ++i) {
      const bool repeats =
          i + 1 == spec.positionals.size() && spec.last_positional_repeats;
      arms += "    " + Quoted(spec.path + " ") +
              (repeats ? "*" : std::to_string(i)) +
              ") kind=" + Quoted(KindName(spec.positionals[i])) + " ;;\n";
    }
  });
  return arms;
}

std::string FishQuoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "'";
}

std::string FishArguments(const ValueKind& kind) {
  switch (kind.source) {
    case Source::kFiles:
      return " -F";
    case Source::kSessions:
      return std::string(" -a '(") + kListSessions + ")'";
    case Source::kModels:
      return std::string(" -a '(") + kListModels + ")'";
    case Source::kWords:
      return " -a " + FishQuoted(Join(kind.words));
    case Source::kNone:
      return "";
  }
  return "";
}

// The scripts, but for what the tree says.
constexpr char kBash[] = R"sh(# bash completion for weir. Load it with:
#   source <(weir completion bash)
_weir_kind() {
  kind=
  case "$1 $2" in
@KINDS@  esac
}

_weir_position() {
  kind=none
  case "$1 $2" in
@POSITIONS@  esac
}

_weir_values() {
  case $1 in
    files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    sessions) mapfile -t COMPREPLY < <(compgen -W "$(@SESSIONS@)" -- "$cur") ;;
    models) mapfile -t COMPREPLY < <(compgen -W "$(@MODELS@)" -- "$cur") ;;
    words*) mapfile -t COMPREPLY < <(compgen -W "${1#words }" -- "$cur") ;;
  esac
}

_weir() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  local where=weir word kind i count=0 commands= options=
  COMPREPLY=()
  # bash makes three words of --option=value.
  if [[ $cur == '=' ]]; then cur=; elif [[ $prev == '=' ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case "$where $word" in
@COMMANDS@    esac
    _weir_kind "$where" "$word"
    if [[ -n $kind ]]; then
      [[ ${COMP_WORDS[i+1]} == '=' ]] && ((i++))
      ((i++))
    elif [[ $word != -* ]]; then
      ((count++))
    fi
  done
  _weir_kind "$where" "$prev"
  if [[ -n $kind ]]; then _weir_values "$kind"; return; fi
  case $where in
@STATES@  esac
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
  elif [[ -n $commands ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
  else
    _weir_position "$where" "$count"
    _weir_values "$kind"
  fi
}
complete -F _weir weir
)sh";

constexpr char kZsh[] = R"sh(#compdef weir
# zsh completion for weir. Load it with:
#   source <(weir completion zsh)
_weir_kind() {
  kind=
  case "$1 $2" in
@KINDS@  esac
}

_weir_position() {
  kind=none
  case "$1 $2" in
@POSITIONS@  esac
}

_weir_values() {
  local -a found
  case $1 in
    files) _files; return ;;
    sessions) found=(${(f)"$(@SESSIONS@)"}) ;;
    models) found=(${(f)"$(@MODELS@)"}) ;;
    words*) found=(${(s: :)${1#words }}) ;;
  esac
  compadd -a found
}

_weir() {
  local where=weir word kind i count=0
  local -a commands options
  for ((i = 2; i < CURRENT; i++)); do
    word=$words[i]
    case "$where $word" in
@COMMANDS@    esac
    _weir_kind "$where" "$word"
    if [[ -n $kind ]]; then
      ((i++))
    elif [[ $word != -* ]]; then
      ((count++))
    fi
  done
  # --option=value is one word here.
  if [[ $words[CURRENT] == --*=* ]]; then
    _weir_kind "$where" "${words[CURRENT]%%=*}"
    compset -P '*='
    _weir_values "$kind"
    return
  fi
  _weir_kind "$where" "$words[CURRENT-1]"
  if [[ -n $kind ]]; then _weir_values "$kind"; return; fi
  case $where in
@STATES@  esac
  if [[ $words[CURRENT] == -* ]]; then
    _describe -o 'option' options
  elif (( $#commands )); then
    _describe 'command' commands
  else
    _weir_position "$where" "$count"
    _weir_values "$kind"
  fi
}
if [[ $funcstack[1] == _weir ]]; then _weir "$@"; else compdef _weir weir; fi
)sh";

constexpr char kFish[] = R"sh(# fish completion for weir. Load it with:
#   weir completion fish | source
function __weir_where
    set -l where weir
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$where $word"
@WORDS@        end
    end
    echo $where
end
complete -c weir -f
@RULES@)sh";

// The template with each mark replaced.
std::string Fill(
    std::string text,
    const std::vector<std::pair<std::string, std::string>>& marks) {
  for (const auto& [mark, value] : marks) {
    for (size_t at = text.find(mark); at != std::string::npos;
         at = text.find(mark, at + value.size())) {
      text.replace(at, mark.size(), value);
    }
  }
  return text;
}

}  // namespace

CommandSpec Describe(const CLI::App& app) { return DescribeBelow(app, {}); }

std::string BashCompletion(const CommandSpec& root) {
  std::string states;
  ForEach(root, [&](const CommandSpec& spec) {
    std::vector<std::string> options;
    for (const OptionSpec& option : spec.options) {
      options.insert(options.end(), option.names.begin(), option.names.end());
    }
    states += "    " + Quoted(spec.path) +
              ") commands=" + Quoted(Join(CommandNames(spec))) +
              " options=" + Quoted(Join(options)) + " ;;\n";
  });
  return Fill(kBash,
              {{"@KINDS@", ValueArms(root)},
               {"@POSITIONS@", PositionArms(root)},
               {"@COMMANDS@", CommandArms(root)},
               {"@STATES@", states},
               {"@SESSIONS@", kListSessions},
               {"@MODELS@", kListModels}});
}

std::string ZshCompletion(const CommandSpec& root) {
  std::string states;
  ForEach(root, [&](const CommandSpec& spec) {
    states += "    " + Quoted(spec.path) + ")\n      commands=(";
    for (const CommandSpec& command : spec.commands) {
      states += " " + Quoted(command.name + ":" + command.description);
    }
    states += ")\n      options=(";
    for (const OptionSpec& option : spec.options) {
      for (const std::string& name : option.names) {
        states += " " + Quoted(name + ":" + option.description);
      }
    }
    states += ") ;;\n";
  });
  return Fill(kZsh,
              {{"@KINDS@", ValueArms(root)},
               {"@POSITIONS@", PositionArms(root)},
               {"@COMMANDS@", CommandArms(root)},
               {"@STATES@", states},
               {"@SESSIONS@", kListSessions},
               {"@MODELS@", kListModels}});
}

std::string FishCompletion(const CommandSpec& root) {
  std::string words;
  std::string rules;
  ForEach(root, [&](const CommandSpec& spec) {
    if (&spec != &root) {
      words += "            case " + FishQuoted(spec.path) +
               "\n                set where \"$where $word\"\n";
    }
    const std::string at =
        "complete -c weir -n 'test (__weir_where) = \"" + spec.path + "\"'";
    for (const CommandSpec& command : spec.commands) {
      rules += at + " -a " + command.name + " -d " +
               FishQuoted(command.description) + "\n";
    }
    for (const OptionSpec& option : spec.options) {
      std::string names;
      for (const std::string& name : option.names) {
        names += name.starts_with("--") ? " -l " + name.substr(2)
                                        : " -s " + name.substr(1);
        if (option.takes_value) {
          words += "            case " + FishQuoted(spec.path + " " + name) +
                   "\n                set skip 1\n";
        }
      }
      rules += at + names;
      if (option.takes_value) {
        // -x: files are no answer.
        rules += option.kind.source == Source::kFiles ? " -r" : " -x";
        rules += FishArguments(option.kind);
      }
      rules += " -d " + FishQuoted(option.description) + "\n";
    }
    for (const ValueKind& kind : spec.positionals) {
      if (kind.source == Source::kNone) continue;
      rules += at + FishArguments(kind) + "\n";
    }
  });
  return Fill(kFish, {{"@WORDS@", words}, {"@RULES@", rules}});
}

}  // namespace weir::client
