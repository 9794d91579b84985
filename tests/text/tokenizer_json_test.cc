// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_json.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/text/small_tokenizer.h"

namespace weir::text {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Case {
  const char* pointer;  // where the file is changed
  const char* value;    // to what, as JSON
  const char* message;  // what the refusal says
};

void ExpectRefused(const json& good, const Case& test) {
  json file = good;
  file[json::json_pointer(test.pointer)] = json::parse(test.value);
  EXPECT_THAT(RefusalOf(file), HasSubstr(test.message))
      << test.pointer << " = " << test.value;
}

TEST(TokenizerJsonTest, GoodFilesAreRead) {
  EXPECT_EQ(RefusalOf(ByteLevelFile()), "");
  EXPECT_EQ(RefusalOf(SpaceLevelFile()), "");
  EXPECT_EQ(Parsed(ByteLevelFile()).size(), 261u);
  EXPECT_EQ(RefusalOf(ByteLevelFile(), 261), "");
}

TEST(TokenizerJsonTest, IdsWithGapsTwiceOrTooHighAreRefused) {
  const json good = ByteLevelFile();
  for (const Case& test : {
           Case{"/model/vocab/the", "300", "300 of \"the\" leaves a gap"},
           Case{"/model/vocab/the", "256", "is that of"},
           Case{"/model/vocab/the", "-1", "no number from 0 on"},
           Case{"/model/vocab/the", "1.5", "no number from 0 on"},
           Case{"/model/vocab/the", "\"7\"", "no number from 0 on"},
           Case{"/model/vocab/the", "70000", "a vocabulary of 65536"},
           Case{"/model/vocab/the", "9999999999999", "a vocabulary of 65536"},
           Case{"/model/vocab/the", "260", "is that of \"the\""},
           Case{"/added_tokens/0/id", "259", "is that of"},
           Case{"/added_tokens/0/id", "261", "leaves a gap"},
           Case{
               "/added_tokens/0/content", "\"the\"", "model's id of it is 257"},
           Case{"/added_tokens/0/content", "\"\"", "1 to 1024 bytes"},
           Case{"/added_tokens/0", "7", "is no object"},
           Case{"/added_tokens", "7", "is no array"},
       }) {
    ExpectRefused(good, test);
  }
  EXPECT_THAT(RefusalOf(good, 260), HasSubstr("a vocabulary of 260"));
}

TEST(TokenizerJsonTest, AGapIsNamed) {
  json file = ByteLevelFile();
  file["added_tokens"].push_back({{"id", 262}, {"content", "x y"}});
  file["added_tokens"].push_back({{"id", 263}, {"content", "x z"}});
  EXPECT_THAT(RefusalOf(file), HasSubstr("263 of \"x z\" leaves a gap"));
  file["added_tokens"].erase(2);
  file["model"]["vocab"].erase("the");
  file["model"]["merges"] = json::array();
  EXPECT_THAT(RefusalOf(file), HasSubstr("262 of \"x y\" leaves a gap"));
  file["added_tokens"][1]["id"] = 261;
  EXPECT_THAT(RefusalOf(file), HasSubstr("leaves a gap"));
}

TEST(TokenizerJsonTest, BadMergesAreRefusedByNumber) {
  const json good = ByteLevelFile();
  for (const Case& test : {
           Case{"/model/merges/1", "[\"t\", \"z\"]", "merge 1: makes \"tz\""},
           Case{"/model/merges/1", "[\"zz\", \"t\"]", "merge 1: names \"zz\""},
           Case{"/model/merges/1", "[\"t\", \"h\"]", "merge 1: stands twice"},
           Case{"/model/merges/1", "[\"\", \"t\"]", "merge 1: joins nothing"},
           Case{"/model/merges/1", "\"t\"", "merge 1: is not two tokens"},
           Case{"/model/merges/1", "\"a b c\"", "merge 1: is not two tokens"},
           Case{"/model/merges/1", "[\"t\"]", "merge 1: is not two tokens"},
           Case{"/model/merges/1", "[1, 2]", "merge 1: is not two tokens"},
           Case{"/model/merges", "{}", "\"merges\" is no array"},
       }) {
    ExpectRefused(good, test);
  }
}

TEST(TokenizerJsonTest, WhatIsNotUnderstoodIsRefusedByName) {
  const json good = ByteLevelFile();
  for (const Case& test : {
           Case{"/new_section", "1", "\"new_section\" is not understood"},
           Case{"/model/type", "\"Unigram\"", "\"Unigram\" is not supported"},
           Case{"/model/trust", "1", "\"trust\" is not understood"},
           Case{"/model/dropout", "0.1", "\"dropout\" is set"},
           Case{"/model/end_of_word_suffix", "\"</w>\"", "\"end_of_word_su"},
           Case{"/model/continuing_subword_prefix", "\"##\"", "is set"},
           Case{"/model/unk_token", "\"<unk>\"", "is no token"},
           Case{"/model/byte_fallback", "1", "neither true nor false"},
           Case{"/model", "null", "there is none"},
           Case{"/model", "[]", "there is none"},
           Case{"/added_tokens/0/x", "1", "added_tokens 0: \"x\" is not under"},
           Case{"/normalizer", "{\"type\": \"Lowercase\"}", "\"Lowercase\" is"},
           Case{"/normalizer", "{\"type\": \"NFKC\"}", "\"NFKC\" is not supp"},
           Case{"/normalizer", "{\"type\": \"Strip\"}", "\"Strip\" is not su"},
           Case{"/normalizer", "{}", "a step without a type"},
           Case{"/normalizer", "7", "a step without a type"},
           Case{"/normalizer",
                "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}, "
                "\"content\": \"b\"}",
                "is a Regex"},
           Case{"/normalizer",
                "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, "
                "\"content\": \"b\"}",
                "is empty"},
           Case{"/normalizer", "{\"type\": \"NFC\", \"x\": 1}", "\"x\" is not"},
           Case{"/pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}", "Bert"},
           Case{"/pre_tokenizer/x", "1", "ByteLevel: \"x\" is not understood"},
           Case{"/pre_tokenizer",
                "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, "
                "\"behavior\": \"Isolated\", \"invert\": false}",
                "an intersection of classes"},
           Case{"/pre_tokenizer",
                "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, "
                "\"behavior\": \"Odd\", \"invert\": false}",
                "\"behavior\" is \"Odd\""},
           Case{"/pre_tokenizer",
                "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
                "\"ByteLevel\"}, {\"type\": \"Digits\"}]}",
                "Digits after ByteLevel"},
           Case{"/pre_tokenizer",
                "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}",
                "is not one character"},
           Case{"/pre_tokenizer",
                "{\"type\": \"Metaspace\", \"replacement\": \"_\", "
                "\"add_prefix_space\": false, \"prepend_scheme\": \"first\"}",
                "do not agree"},
           Case{"/post_processor", "{\"type\": \"BertProcessing\"}", "Bert"},
           Case{"/decoder", "null", "there is none"},
           Case{"/decoder", "{\"type\": \"CTC\"}", "\"CTC\" is not supported"},
           Case{"/decoder",
                "{\"type\": \"Sequence\", \"decoders\": [{\"type\": "
                "\"ByteLevel\"}, {\"type\": \"Metaspace\", \"replacement\": "
                "\"_\"}]}",
                "already joined"},
           Case{"/decoder",
                "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, "
                "{\"type\": \"Strip\", \"content\": \" \", \"start\": 0, "
                "\"stop\": 1}]}",
                "has not ended"},
       }) {
    ExpectRefused(good, test);
  }
}

TEST(TokenizerJsonTest, TextThatIsNoBoundedJsonIsRefused) {
  const auto refusal = [](const std::string& text) {
    return std::string(ParseTokenizerJson(text, 65536).status().message());
  };
  EXPECT_THAT(refusal(""), HasSubstr("not JSON at byte"));
  EXPECT_THAT(refusal("{"), HasSubstr("not JSON at byte"));
  EXPECT_THAT(refusal("{} x"), HasSubstr("not JSON at byte"));
  EXPECT_THAT(refusal("[]"), HasSubstr("is no object"));
  EXPECT_THAT(refusal("{\"a\": 1, \"a\": 2}"), HasSubstr("\"a\" stands twice"));
  EXPECT_THAT(refusal("{\"a\": \"\\ud800\"}"), HasSubstr("not JSON at byte"));
  EXPECT_THAT(refusal("{\"a\": \"\xff\"}"), HasSubstr("not JSON at byte"));
  EXPECT_THAT(refusal(std::string(100, '[')), HasSubstr("deeper than 32"));
  std::string many = "[0";
  for (int n = 0; n < 4'000'000; ++n) many += ",0";
  EXPECT_THAT(refusal(many + "]"), HasSubstr("more than 4000000 values"));
  EXPECT_THAT(refusal(std::string(kTokenizerJsonBytesMax + 1, ' ')),
              HasSubstr("bytes, at most 67108864"));
}

TEST(TokenizerJsonTest, AnOldFileWithoutATypeIsBpe) {
  json file = ByteLevelFile();
  file["model"].erase("type");
  file["model"]["unk_token"] = "";
  file["model"]["merges"] = {"t h", "th e"};

  EXPECT_EQ(RefusalOf(file), "");
}

TEST(TokenizerJsonTest, TooManyStepsAreRefused) {
  json file = ByteLevelFile();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  for (int n = 0; n < 17; ++n) {
    file["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
  }
  EXPECT_THAT(RefusalOf(file), HasSubstr("more than 16 steps"));
}

}  // namespace
}  // namespace weir::text
