// SPDX-License-Identifier: Apache-2.0
#include "engine/config/config_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/config/strict_json.h"

namespace weir::engine {
namespace {

using nlohmann::json;

// Attributes of transformers' PretrainedConfig and of training, which say
// nothing about what the model computes.
constexpr const char* kKeysOfNoEffect[] = {
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "fuse_norm",
    "fuse_swiglu",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_l2warp",
};

// A number, or one of the ways to write infinity; else NaN.
double Limit(const json& value) {
  if (value.is_number()) return value.get<double>();
  const json* word = &value;
  if (value.is_object() && value.size() == 1 && value.contains("__float__")) {
    word = &value["__float__"];
  }
  for (const char* infinity : {"Infinity", "inf", "Inf", "+inf"}) {
    if (*word == infinity) return std::numeric_limits<double>::infinity();
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

ConfigFields::ConfigFields(const json& object, std::string path)
    : object_(object), path_(std::move(path)) {}

bool ConfigFields::Has(const std::string& key) const {
  return object_.contains(key);
}

void ConfigFields::Fail(const std::string& key, std::string_view what) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(
      "CONFIG: ", path_, ": key ", Quoted(key), ": ", std::string(what)));
}

const json* ConfigFields::Value(const std::string& key) {
  read_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

int64_t ConfigFields::Int(const std::string& key,
                          int64_t low,
                          int64_t high,
                          std::optional<int64_t> otherwise) {
  const json* value = Value(key);
  if (value == nullptr) {
    if (otherwise.has_value()) return *otherwise;
    Fail(key, "is missing");
    return low;
  }
  const std::string rule =
      absl::StrCat(value->dump(-1, ' ', true).substr(0, 40),
                   " is not a whole number from ",
                   low,
                   " to ",
                   high);
  if (!value->is_number_integer() ||
      (value->is_number_unsigned() &&
       value->get<uint64_t>() > static_cast<uint64_t>(high))) {
    Fail(key, rule);
    return low;
  }
  const int64_t number = value->get<int64_t>();
  if (number < low || number > high) {
    Fail(key, rule);
    return low;
  }
  return number;
}

double ConfigFields::Number(const std::string& key,
                            double low,
                            double high,
                            std::optional<double> otherwise) {
  const json* value = Value(key);
  if (value == nullptr) {
    if (otherwise.has_value()) return *otherwise;
    Fail(key, "is missing");
    return high;
  }
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number > low && number <= high)) {
    Fail(key,
         absl::StrCat(value->dump(-1, ' ', true).substr(0, 40),
                      " is not a number above ",
                      low,
                      ", at most ",
                      high));
    return high;
  }
  return number;
}

bool ConfigFields::Bool(const std::string& key, bool otherwise) {
  const json* value = Value(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    Fail(key, "is neither true nor false");
    return otherwise;
  }
  return value->get<bool>();
}

std::array<float, 2> ConfigFields::Range(const std::string& key,
                                         std::array<float, 2> otherwise) {
  const json* value = Value(key);
  if (value == nullptr) return otherwise;
  double low = NAN;
  double high = NAN;
  if (value->is_array() && value->size() == 2) {
    low = Limit((*value)[0]);
    high = Limit((*value)[1]);
  }
  if (!(low >= 0 && low < high && std::isfinite(low))) {
    Fail(key, "is not two numbers, the first at least 0 and below the second");
    return otherwise;
  }
  return {static_cast<float>(low), static_cast<float>(high)};
}

std::string ConfigFields::OneOf(const std::string& key,
                                std::initializer_list<const char*> choices,
                                const char* otherwise) {
  const json* value = Value(key);
  if (value == nullptr) return otherwise;
  if (value->is_string()) {
    for (const char* choice : choices) {
      if (*value == choice) return choice;
    }
  }
  std::string known;
  for (const char* choice : choices) absl::StrAppend(&known, " ", choice);
  Fail(key,
       absl::StrCat(
           Quoted(value->dump(-1, ' ', true)), " is not one of:", known));
  return otherwise;
}

void ConfigFields::Null(const std::string& key, std::string_view why) {
  if (Value(key) != nullptr) Fail(key, why);
}

const json& ConfigFields::Raw(const std::string& key) {
  static const json kNull;
  const json* value = Value(key);
  return value == nullptr ? kNull : *value;
}

void ConfigFields::Ignore(std::initializer_list<const char*> keys) {
  read_.insert(keys.begin(), keys.end());
}

absl::Status ConfigFields::Finish() {
  for (const auto& [key, value] : object_.items()) {
    if (key.starts_with("_") || read_.contains(key)) continue;
    const auto is_key = [&key = key](const char* name) { return key == name; };
    if (std::any_of(
            std::begin(kKeysOfNoEffect), std::end(kKeysOfNoEffect), is_key)) {
      continue;
    }
    Fail(key, "is not understood");
  }
  return status_;
}

}  // namespace weir::engine
