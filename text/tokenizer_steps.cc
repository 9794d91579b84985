// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_steps.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/regex_syntax.h"

namespace weir::text {
namespace {

using nlohmann::json;

constexpr size_t kStepsMax = 16;
constexpr uint32_t kStripMax = 1024;

// GPT-2's words, in PCRE2's syntax.
constexpr const char* kByteLevelWords =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
    "| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";

struct Section {
  const char* name;  // of the section
  const char* list;  // the field that a Sequence keeps its steps in
};

std::string Place(const Section& section, const std::string& type) {
  return absl::StrCat(section.name, " ", type);
}

// The steps of a section, Sequences opened.
absl::StatusOr<std::vector<const json*>> Flatten(const Section& section,
                                                 const json* value) {
  std::vector<const json*> steps;
  std::vector<const json*> waiting;
  if (value != nullptr) waiting.push_back(value);
  while (!waiting.empty()) {
    const json* step = waiting.back();
    waiting.pop_back();
    if (!step->is_object() || step->value("type", json()) != "Sequence") {
      steps.push_back(step);
      if (steps.size() <= kStepsMax) continue;
      return Refusal(section.name, ": more than ", kStepsMax, " steps");
    }
    JsonFields fields(Place(section, "Sequence"), *step);
    fields.Ignore("type");
    const json::array_t& list = fields.Array(section.list);
    WEIR_RETURN_IF_ERROR(fields.Finish());
    for (auto inner = list.rbegin(); inner != list.rend(); ++inner) {
      waiting.push_back(&*inner);
    }
  }
  return steps;
}

// The name of a step's type; a refusal if it has none.
absl::StatusOr<std::string> TypeOf(const Section& section, const json& step) {
  if (step.is_object()) {
    const auto type = step.find("type");
    if (type != step.end() && type->is_string()) {
      return type->get<std::string>();
    }
  }
  return Refusal(section.name, ": a step without a type");
}

absl::Status Unknown(const Section& section, const std::string& type) {
  return Refusal(section.name, ": ", Quoted(type), " is not supported");
}

// {"String": ...} or {"Regex": ...}.
struct Pattern {
  std::string text;
  bool regex = false;
};

Pattern ReadPattern(JsonFields& fields) {
  Pattern pattern;
  const json::object_t& object = fields.Object("pattern");
  const auto only = object.begin();
  if (object.size() != 1 || !only->second.is_string() ||
      (only->first != "String" && only->first != "Regex")) {
    fields.Refuse("pattern", "is neither a String nor a Regex");
    return pattern;
  }
  pattern.text = only->second.get<std::string>();
  pattern.regex = only->first == "Regex";
  if (pattern.text.empty()) fields.Refuse("pattern", "is empty");
  return pattern;
}

ReplaceStep ReadReplace(JsonFields& fields) {
  const Pattern pattern = ReadPattern(fields);
  if (pattern.regex) fields.Refuse("pattern", "is a Regex; a String is read");
  return {pattern.text, fields.String("content")};
}

SplitBehavior ReadBehavior(JsonFields& fields) {
  const std::string name = fields.String("behavior");
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fields.Refuse("behavior", absl::StrCat("is ", Quoted(name)));
  return SplitBehavior::kIsolated;
}

// A step that the file names and whose pattern is ours, in PCRE2's syntax.
absl::StatusOr<SplitStep> BuiltIn(const char* pattern,
                                  SplitBehavior behavior,
                                  bool invert) {
  WEIR_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern));
  return SplitStep{std::move(regex), behavior, invert};
}

absl::StatusOr<SplitStep> ReadSplit(JsonFields& fields) {
  const Pattern pattern = ReadPattern(fields);
  SplitStep split;
  split.behavior = ReadBehavior(fields);
  split.invert = fields.Bool("invert", false);
  WEIR_RETURN_IF_ERROR(fields.Finish());
  if (!pattern.regex) {
    split.pattern = pattern.text;
    return split;
  }
  WEIR_ASSIGN_OR_RETURN(const std::string translated,
                        FromOniguruma(pattern.text));
  WEIR_ASSIGN_OR_RETURN(split.pattern, Regex::Compile(translated));
  return split;
}

// Files from before `prepend_scheme` say `add_prefix_space`.
MetaspaceStep::Prepend ReadPrepend(JsonFields& fields) {
  const bool prefix = fields.Bool("add_prefix_space", true);
  const std::string scheme =
      fields.String("prepend_scheme", prefix ? "always" : "never");
  if (scheme == "never") return MetaspaceStep::Prepend::kNever;
  if (!prefix) {
    fields.Refuse("add_prefix_space", "and prepend_scheme do not agree");
  }
  if (scheme == "first") return MetaspaceStep::Prepend::kFirst;
  if (scheme != "always") {
    fields.Refuse("prepend_scheme", absl::StrCat("is ", Quoted(scheme)));
  }
  return MetaspaceStep::Prepend::kAlways;
}

MetaspaceStep ReadMetaspace(JsonFields& fields) {
  MetaspaceStep step;
  step.replacement = fields.Character("replacement");
  fields.Ignore("str_rep");
  step.prepend = ReadPrepend(fields);
  step.split = fields.Bool("split", true);
  return step;
}

absl::Status ReadByteLevel(JsonFields& fields,
                           std::vector<PreTokenizer::Step>& steps) {
  if (fields.Bool("add_prefix_space", true)) steps.push_back(PrefixSpaceStep{});
  fields.Ignore("trim_offsets");
  if (fields.Bool("use_regex", true)) {
    WEIR_ASSIGN_OR_RETURN(
        SplitStep split,
        BuiltIn(kByteLevelWords, SplitBehavior::kIsolated, false));
    steps.push_back(std::move(split));
  }
  return absl::OkStatus();
}

// The types that are a cut at a pattern of ours.
absl::StatusOr<SplitStep> ReadBuiltIn(const std::string& type,
                                      JsonFields& fields) {
  if (type == "Digits") {
    const bool single = fields.Bool("individual_digits", false);
    return BuiltIn(
        single ? "\\p{N}" : "\\p{N}+", SplitBehavior::kIsolated, false);
  }
  if (type == "Punctuation") {
    if (fields.Value("behavior") == nullptr) {
      return BuiltIn("[!-/:-@\\[-`{-~\\p{P}]", SplitBehavior::kIsolated, false);
    }
    return BuiltIn("[!-/:-@\\[-`{-~\\p{P}]", ReadBehavior(fields), false);
  }
  if (type == "Whitespace") {
    return BuiltIn(
        "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+"
        "|[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"
        "\\p{White_Space}]+",
        SplitBehavior::kRemoved,
        true);
  }
  return BuiltIn("\\p{White_Space}", SplitBehavior::kRemoved, false);
}

bool IsBuiltIn(const std::string& type) {
  return type == "Digits" || type == "Punctuation" || type == "Whitespace" ||
         type == "WhitespaceSplit";
}

absl::Status ReadDecoderStep(const std::string& type,
                             JsonFields& fields,
                             bool& fused,
                             TokenText& text) {
  const bool spelled = text.bytes != TokenText::Bytes::kText;
  if (type == "Fuse") {
    fused = true;
    return fields.Finish();
  }
  if (type == "Strip") {
    StripStep step = {fields.Character("content"),
                      fields.Number("start", kStripMax),
                      fields.Number("stop", kStripMax)};
    if (fused && (step.stop != 0 || text.whole.start != 0)) {
      fields.Refuse("stop", "at the end of a text that has not ended");
    }
    if (spelled && !fused) fields.Refuse("type", "Strip of parts of bytes");
    if (fused) {
      text.whole = std::move(step);
    } else {
      text.steps.emplace_back(std::move(step));
    }
    return fields.Finish();
  }
  if (fused || spelled) {
    fields.Refuse("type", absl::StrCat(type, " of what is already joined"));
  }
  if (type == "Replace") {
    text.steps.emplace_back(ReadReplace(fields));
  } else if (type == "Metaspace") {
    const MetaspaceStep step = ReadMetaspace(fields);
    text.steps.emplace_back(SpaceStep{
        step.replacement, step.prepend != MetaspaceStep::Prepend::kNever});
  } else if (type == "ByteFallback") {
    text.bytes = TokenText::Bytes::kFallback;
  } else {
    for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      fields.Ignore(name);
    }
    text.bytes = TokenText::Bytes::kLevel;
    fused = true;
  }
  return fields.Finish();
}

}  // namespace

absl::StatusOr<Normalizer> ReadNormalizer(const json* value) {
  constexpr Section kSection = {"normalizer", "normalizers"};
  std::vector<Normalizer::Step> steps;
  WEIR_ASSIGN_OR_RETURN(const auto list, Flatten(kSection, value));
  for (const json* step : list) {
    WEIR_ASSIGN_OR_RETURN(const std::string type, TypeOf(kSection, *step));
    JsonFields fields(Place(kSection, type), *step);
    fields.Ignore("type");
    if (type == "NFC") {
      steps.emplace_back(NfcStep{});
    } else if (type == "Prepend") {
      steps.emplace_back(PrependStep{fields.String("prepend")});
    } else if (type == "Replace") {
      steps.emplace_back(ReadReplace(fields));
    } else {
      return Unknown(kSection, type);
    }
    WEIR_RETURN_IF_ERROR(fields.Finish());
  }
  return Normalizer(std::move(steps));
}

absl::StatusOr<PreTokenizerSection> ReadPreTokenizer(const json* value) {
  constexpr Section kSection = {"pre_tokenizer", "pretokenizers"};
  PreTokenizerSection out;
  std::vector<PreTokenizer::Step> steps;
  WEIR_ASSIGN_OR_RETURN(const auto list, Flatten(kSection, value));
  for (const json* step : list) {
    WEIR_ASSIGN_OR_RETURN(const std::string type, TypeOf(kSection, *step));
    JsonFields fields(Place(kSection, type), *step);
    fields.Ignore("type");
    if (out.byte_level) {
      return Refusal(kSection.name, ": ", type, " after ByteLevel");
    }
    if (type == "ByteLevel") {
      out.byte_level = true;
      WEIR_RETURN_IF_ERROR(ReadByteLevel(fields, steps));
    } else if (type == "Metaspace") {
      steps.emplace_back(ReadMetaspace(fields));
    } else if (type == "Split") {
      WEIR_ASSIGN_OR_RETURN(SplitStep split, ReadSplit(fields));
      steps.emplace_back(std::move(split));
    } else if (IsBuiltIn(type)) {
      WEIR_ASSIGN_OR_RETURN(SplitStep split, ReadBuiltIn(type, fields));
      steps.emplace_back(std::move(split));
    } else {
      return Unknown(kSection, type);
    }
    WEIR_RETURN_IF_ERROR(fields.Finish());
  }
  out.steps = PreTokenizer(std::move(steps));
  return out;
}

absl::StatusOr<TokenText> ReadDecoder(const json* value) {
  constexpr Section kSection = {"decoder", "decoders"};
  if (value == nullptr) {
    return Refusal("decoder: there is none, so tokens have no text");
  }
  TokenText text;
  bool fused = false;
  WEIR_ASSIGN_OR_RETURN(const auto list, Flatten(kSection, value));
  for (const json* step : list) {
    WEIR_ASSIGN_OR_RETURN(const std::string type, TypeOf(kSection, *step));
    constexpr const char* kTypes[] = {
        "ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"};
    if (std::find(std::begin(kTypes), std::end(kTypes), type) ==
        std::end(kTypes)) {
      return Unknown(kSection, type);
    }
    JsonFields fields(Place(kSection, type), *step);
    fields.Ignore("type");
    WEIR_RETURN_IF_ERROR(ReadDecoderStep(type, fields, fused, text));
  }
  return text;
}

absl::Status CheckPostProcessor(const json* value) {
  constexpr Section kSection = {"post_processor", "processors"};
  WEIR_ASSIGN_OR_RETURN(const auto list, Flatten(kSection, value));
  for (const json* step : list) {
    WEIR_ASSIGN_OR_RETURN(const std::string type, TypeOf(kSection, *step));
    if (type != "ByteLevel" && type != "TemplateProcessing") {
      return Unknown(kSection, type);
    }
  }
  return absl::OkStatus();
}

}  // namespace weir::text
