// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_json.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "text/bounded_json.h"
#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/tokenizer_steps.h"

namespace weir::text {
namespace {

using nlohmann::json;

constexpr size_t kAddedMax = 65536;
constexpr size_t kAddedBytesMax = 1024;

// The tokens by id, as they are found: none twice, and at the end no gap.
class TokenList {
 public:
  // `most`: tokens that there can be. An id beyond would leave a gap.
  TokenList(uint32_t vocabulary, size_t most)
      : vocabulary_(vocabulary), most_(most) {}

  absl::Status Add(const std::string& token, uint64_t id) {
    if (id >= vocabulary_) {
      return Refusal("the id ",
                     id,
                     " of ",
                     Quoted(token),
                     " in a model with a vocabulary of ",
                     vocabulary_);
    }
    if (id >= most_) {
      return Refusal("the id ",
                     id,
                     " of ",
                     Quoted(token),
                     " leaves a gap: there are at most ",
                     most_,
                     " tokens");
    }
    if (tokens_.size() <= id) {
      tokens_.resize(id + 1);
      filled_.resize(id + 1);
    }
    if (filled_[id]) {
      return Refusal("the id ",
                     id,
                     " of ",
                     Quoted(token),
                     " is that of ",
                     Quoted(tokens_[id]));
    }
    filled_[id] = true;
    tokens_[id] = token;
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> Take() {
    for (size_t id = 0; id < filled_.size(); ++id) {
      if (!filled_[id]) return Refusal("no token has the id ", id);
    }
    if (tokens_.empty()) return Refusal("there is no token");
    return std::move(tokens_);
  }

 private:
  const uint32_t vocabulary_;
  const size_t most_;
  std::vector<std::string> tokens_;
  std::vector<bool> filled_;
};

absl::StatusOr<BpeModel::Vocabulary> ReadVocabulary(
    const json::object_t& object, TokenList& tokens) {
  BpeModel::Vocabulary vocabulary;
  vocabulary.reserve(object.size());
  for (const auto& [token, id] : object) {
    if (!id.is_number_unsigned()) {
      return Refusal(
          "model: the id of ", Quoted(token), " is no number from 0 on");
    }
    const absl::Status added = tokens.Add(token, id.get<uint64_t>());
    if (!added.ok()) return At("model", added);
    vocabulary.emplace(token, id.get<uint32_t>());
  }
  return vocabulary;
}

// "a b" or ["a", "b"]. A token may hold a space in the second form only.
absl::StatusOr<BpeModel::NamedMerges> ReadMerges(const json::array_t& list) {
  BpeModel::NamedMerges merges;
  merges.reserve(list.size());
  for (const json& entry : list) {
    if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
        entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(),
                          entry[1].get<std::string>());
      continue;
    }
    const std::string line = entry.is_string() ? entry.get<std::string>() : "";
    const size_t space = line.find(' ');
    if (space == std::string::npos ||
        line.find(' ', space + 1) != std::string::npos) {
      return Refusal("model: merge ", merges.size(), ": is not two tokens");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

absl::StatusOr<BpeModel> ReadModel(const json& section,
                                   bool byte_level,
                                   TokenList& tokens,
                                   BpeModel::Vocabulary& vocabulary) {
  JsonFields fields("model", section);
  // The oldest files name no type; BPE alone has both of these.
  const std::string type = fields.String("type", "BPE");
  if (type != "BPE") {
    return Refusal("model: ", Quoted(type), " is not supported, only BPE");
  }
  BpeModel::Options options;
  options.byte_level = byte_level;
  options.byte_fallback = fields.Bool("byte_fallback", false);
  options.ignore_merges = fields.Bool("ignore_merges", false);
  options.fuse_unknown = fields.Bool("fuse_unk", false);
  const std::string unknown = fields.String("unk_token", "");
  fields.Unused("dropout");
  fields.Unused("continuing_subword_prefix");
  fields.Unused("end_of_word_suffix");
  const json::object_t& ids = fields.Object("vocab");
  const json::array_t& lines = fields.Array("merges");
  WEIR_RETURN_IF_ERROR(fields.Finish());

  WEIR_ASSIGN_OR_RETURN(vocabulary, ReadVocabulary(ids, tokens));
  if (!unknown.empty()) {
    const auto found = vocabulary.find(unknown);
    if (found == vocabulary.end()) {
      return Refusal("model: unk_token ", Quoted(unknown), " is no token");
    }
    options.unknown = found->second;
  }
  WEIR_ASSIGN_OR_RETURN(const BpeModel::NamedMerges merges, ReadMerges(lines));
  auto model = BpeModel::Create(vocabulary, merges, options);
  if (!model.ok()) return At("model", model.status());
  return model;
}

// An added token may be one of the model's own, with the same id.
absl::StatusOr<std::vector<AddedToken>> ReadAdded(
    const json::array_t& list,
    const BpeModel::Vocabulary& vocabulary,
    TokenList& tokens) {
  std::vector<AddedToken> added;
  if (list.size() > kAddedMax) {
    return Refusal("added_tokens: more than ", kAddedMax);
  }
  absl::flat_hash_set<std::string> seen;
  for (const json& entry : list) {
    const std::string place = absl::StrCat("added_tokens ", added.size());
    JsonFields fields(place, entry);
    AddedToken token;
    token.id = fields.Number("id", UINT32_MAX);
    token.content = fields.String("content");
    token.special = fields.Bool("special", false);
    token.single_word = fields.Bool("single_word", false);
    token.lstrip = fields.Bool("lstrip", false);
    token.rstrip = fields.Bool("rstrip", false);
    token.normalized = fields.Bool("normalized", !token.special);
    if (token.content.empty() || token.content.size() > kAddedBytesMax) {
      fields.Refuse("content",
                    absl::StrCat("is not of 1 to ", kAddedBytesMax, " bytes"));
    }
    if (!seen.insert(token.content).second) {
      fields.Refuse("content", "stands twice");
    }
    WEIR_RETURN_IF_ERROR(fields.Finish());
    const auto own = vocabulary.find(token.content);
    if (own == vocabulary.end()) {
      const absl::Status status = tokens.Add(token.content, token.id);
      if (!status.ok()) return At(place, status);
    } else if (own->second != token.id) {
      return Refusal(place, ": the model's id of it is ", own->second);
    }
    added.push_back(std::move(token));
  }
  return added;
}

absl::StatusOr<BpeTokenizer> Read(const json& file, uint32_t vocabulary_size) {
  JsonFields fields("tokenizer", file);
  fields.Ignore("version");
  // Not ours to do: a session's length has no limit, and rows are not padded.
  fields.Ignore("truncation");
  fields.Ignore("padding");
  const json* normalizer = fields.Value("normalizer");
  const json* pre_tokenizer = fields.Value("pre_tokenizer");
  const json* post_processor = fields.Value("post_processor");
  const json* decoder = fields.Value("decoder");
  const json* added = fields.Value("added_tokens");
  const json* model = fields.Value("model");
  WEIR_RETURN_IF_ERROR(fields.Finish());
  if (model == nullptr || !model->is_object()) {
    return Refusal("model: there is none");
  }
  if (added != nullptr && !added->is_array()) {
    return Refusal("added_tokens: is no array");
  }

  BpeTokenizer::Parts parts;
  WEIR_ASSIGN_OR_RETURN(parts.normalizer, ReadNormalizer(normalizer));
  WEIR_ASSIGN_OR_RETURN(PreTokenizerSection words,
                        ReadPreTokenizer(pre_tokenizer));
  parts.pre_tokenizer = std::move(words.steps);
  WEIR_RETURN_IF_ERROR(CheckPostProcessor(post_processor));
  WEIR_ASSIGN_OR_RETURN(parts.token_text, ReadDecoder(decoder));
  const size_t most =
      (added == nullptr ? 0 : added->size()) +
      (model->contains("vocab") ? model->at("vocab").size() : 0);
  TokenList tokens(vocabulary_size, most);
  BpeModel::Vocabulary vocabulary;
  WEIR_ASSIGN_OR_RETURN(
      parts.model, ReadModel(*model, words.byte_level, tokens, vocabulary));
  if (added != nullptr) {
    WEIR_ASSIGN_OR_RETURN(
        parts.added,
        ReadAdded(added->get_ref<const json::array_t&>(), vocabulary, tokens));
  }
  WEIR_ASSIGN_OR_RETURN(parts.tokens, tokens.Take());
  return BpeTokenizer::Create(std::move(parts));
}

}  // namespace

absl::StatusOr<BpeTokenizer> ParseTokenizerJson(std::string_view file,
                                                uint32_t vocabulary) {
  if (file.size() > kTokenizerJsonBytesMax) {
    return Refusal(file.size(), " bytes, at most ", kTokenizerJsonBytesMax);
  }
  WEIR_ASSIGN_OR_RETURN(const json tree, ParseBoundedJson(file, {}));
  return Read(tree, vocabulary);
}

}  // namespace weir::text
