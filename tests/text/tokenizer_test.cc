// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/text/small_tokenizer.h"
#include "text/utf8.h"

namespace weir::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kRwkvFile = "0 'a' 1\n1 'b' 1\n2 'ab' 2\n3 b'\\xe2' 1\n";

// A folder that is deleted with its contents.
class Folder {
 public:
  Folder() {
    std::string name = testing::TempDir() + "/tokenizer-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const fs::path& path() const { return path_; }
  auto Load(uint32_t vocabulary = 65536) const {
    return LoadTokenizer(path_.string(), vocabulary);
  }

 private:
  fs::path path_;
};

std::vector<uint32_t> Encoded(const Tokenizer& tokenizer,
                              std::string_view text) {
  auto ids = tokenizer.Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<uint32_t>();
}

std::string Decoded(const Tokenizer& tokenizer,
                    const std::vector<uint32_t>& ids,
                    Decoder::Place place = Decoder::Place::kStart) {
  Decoder decoder(tokenizer, place);
  std::string text;
  for (uint32_t id : ids) {
    const std::string part = decoder.Push(id);
    EXPECT_EQ(InvalidUtf8At(part), std::nullopt);
    text += part;
  }
  return text + decoder.Flush();
}

std::string RandomText(std::mt19937& random, bool any_bytes) {
  std::string text;
  for (size_t n = random() % 60; n > 0; --n) {
    static constexpr std::string_view kOften = "the aa  th\n's 12<|end|>,";
    if (random() % 3 != 0) {
      text += kOften[random() % kOften.size()];
    } else if (any_bytes) {
      text += static_cast<char>(random());
    } else {
      // But U+2581, which one kind writes for a space.
      AppendUtf8(
          random() % 2 == 0 ? random() % 0x2581 : 0xe000 + random() % 0x102000,
          text);
    }
  }
  return text;
}

TEST(TokenizerTest, MergesFollowTheirRanksWithinWords) {
  const Tokenizer tokenizer(Parsed(ByteLevelFile()));

  EXPECT_THAT(Encoded(tokenizer, "the th"), ElementsAre(257, ' ', 256));
  EXPECT_THAT(Encoded(tokenizer, "aaaaaaa"), ElementsAre(259, 258, 'a'));
  EXPECT_THAT(Encoded(tokenizer, "t'h"), ElementsAre('t', '\'', 'h'));
  EXPECT_THAT(Encoded(tokenizer, "\u00ff"), ElementsAre(0xc3, 0xbf));
  EXPECT_THAT(Encoded(tokenizer, ""), ElementsAre());
}

TEST(TokenizerTest, SpecialTokensAreFoundAndHaveNoText) {
  const Tokenizer tokenizer(Parsed(ByteLevelFile()));

  const std::vector<uint32_t> ids = Encoded(tokenizer, "t<|end|>he<|end|");

  EXPECT_THAT(std::vector(ids.begin(), ids.begin() + 4),
              ElementsAre('t', 260, 'h', 'e'));
  EXPECT_EQ(Decoded(tokenizer, ids), "the<|end|");
}

TEST(TokenizerTest, WhatHasNoTokenFallsBackToBytes) {
  const Tokenizer tokenizer(Parsed(SpaceLevelFile()));

  EXPECT_THAT(Encoded(tokenizer, "the \u20ac"),
              ElementsAre(263, 257, 0xe2 + 1, 0x82 + 1, 0xac + 1));
  EXPECT_EQ(Decoded(tokenizer, {263, 257, 0xe3, 0x83, 0xad}), "the \u20ac");
}

TEST(TokenizerTest, OnlyABeginningLosesItsSpace) {
  const Tokenizer tokenizer(Parsed(SpaceLevelFile()));

  EXPECT_EQ(Decoded(tokenizer, {263, 263}), "the the");
  EXPECT_EQ(Decoded(tokenizer, {263, 263}, Decoder::Place::kContinue),
            " the the");
}

TEST(TokenizerTest, WithoutATokenTextIsRefused) {
  json file = SpaceLevelFile();
  file["model"]["byte_fallback"] = false;
  EXPECT_THAT(Encoded(Tokenizer(Parsed(file)), "zzt"),
              ElementsAre(257, 0, 258));
  file["model"]["fuse_unk"] = false;
  EXPECT_THAT(Encoded(Tokenizer(Parsed(file)), "zz"), ElementsAre(257, 0, 0));
  file["model"]["unk_token"] = nullptr;
  const auto refused = Tokenizer(Parsed(file)).Encode("t\u20ac");

  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("no token for \"\\xe2\\x82\\xac\""));
}

TEST(TokenizerTest, TextThatIsNotUtf8IsRefusedByBpeAlone) {
  const auto refused = Tokenizer(Parsed(ByteLevelFile())).Encode("ab\x80");

  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("at byte 2"));
  EXPECT_THAT(Encoded(Tokenizer(), "ab\x80"), ElementsAre('a', 'b', 0x80));
}

TEST(TokenizerTest, AnyTextComesBack) {
  constexpr uint32_t kSeed = 23;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  json file = ByteLevelFile();
  file["added_tokens"][0]["special"] = false;
  const Tokenizer bytes, level(Parsed(file)), space(Parsed(SpaceLevelFile()));
  for (int round = 0; round < 3000; ++round) {
    const std::string text = RandomText(random, false);
    for (const Tokenizer* tokenizer : {&bytes, &level, &space}) {
      ASSERT_EQ(Decoded(*tokenizer, Encoded(*tokenizer, text)), text)
          << tokenizer->kind() << " round " << round;
    }
    const std::string any = RandomText(random, true);
    std::string back;
    for (uint32_t id : Encoded(bytes, any)) back += bytes.Bytes(id);
    ASSERT_EQ(back, any) << "round " << round;
  }
}

TEST(TokenizerTest, AnyIdsAreValidTextHoweverTheyAreSplit) {
  constexpr uint32_t kSeed = 29;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const Tokenizer level(Parsed(ByteLevelFile()));
  const Tokenizer space(Parsed(SpaceLevelFile()));
  for (int round = 0; round < 2000; ++round) {
    for (const Tokenizer* tokenizer : {&level, &space}) {
      std::string bytes, shown;
      Decoder decoder(*tokenizer);
      Utf8Stream whole;
      for (size_t n = random() % 30; n > 0; --n) {
        const uint32_t id = random() % (tokenizer->size() + 3);
        shown += decoder.Push(id);
        ASSERT_EQ(InvalidUtf8At(shown), std::nullopt) << "round " << round;
        if (tokenizer->Bytes(id).empty()) whole.Flush(bytes);
        for (char c : tokenizer->Bytes(id)) {
          whole.Push(static_cast<uint8_t>(c), bytes);
        }
      }
      whole.Flush(bytes);
      ASSERT_EQ(shown + decoder.Flush(), bytes) << "round " << round;
    }
  }
}

TEST(TokenizerTest, AMebibyteOfAnythingIsEncoded) {
  const Tokenizer level(Parsed(ByteLevelFile()));
  const Tokenizer space(Parsed(SpaceLevelFile()));
  constexpr size_t kBytes = size_t{1} << 20;
  for (const char* piece : {"a",
                            " ",
                            "\n",
                            "t",
                            "the ",
                            "\u4e00",
                            "\U0001f600",
                            "0",
                            "'",
                            "e\u0301"}) {
    std::string text;
    while (text.size() < kBytes) text += piece;
    for (const Tokenizer* tokenizer : {&level, &space}) {
      ASSERT_EQ(Decoded(*tokenizer, Encoded(*tokenizer, text)), text) << piece;
    }
  }
}

TEST(LoadTokenizerTest, TheFolderSaysWhichKind) {
  const Folder folder;
  EXPECT_STREQ((**folder.Load()).kind(), "bytes");
  EXPECT_EQ(*folder.Load(255), std::nullopt);
  folder.Write("rwkv_vocab_v20230424.txt", kRwkvFile);
  EXPECT_STREQ((**folder.Load()).kind(), "rwkv");
  EXPECT_EQ((**folder.Load()).size(), 4u);
  EXPECT_THAT(Encoded(**folder.Load(), "abb"), ElementsAre(2, 1));
  folder.Write("tokenizer.json", ByteLevelFile().dump());
  EXPECT_STREQ((**folder.Load()).kind(), "bpe");
  EXPECT_EQ((**folder.Load()).size(), 261u);
}

TEST(LoadTokenizerTest, AnotherFormatMeansNoText) {
  const Folder folder;
  folder.Write("tokenizer.model", "x");

  EXPECT_EQ(*folder.Load(), std::nullopt);
}

TEST(LoadTokenizerTest, BadFilesAreRefusedWithTheirPath) {
  const auto message = [](const Folder& folder, uint32_t vocabulary = 65536) {
    return std::string(folder.Load(vocabulary).status().message());
  };
  const Folder folder;
  folder.Write("rwkv_vocab_a.txt", kRwkvFile);
  EXPECT_THAT(message(folder, 3), HasSubstr("rwkv_vocab_a.txt: line 4: index"));
  folder.Write("rwkv_vocab_b.txt", kRwkvFile);
  EXPECT_THAT(message(folder), HasSubstr("holds both"));
  folder.Write("tokenizer.json", "{");
  EXPECT_THAT(message(folder), HasSubstr("tokenizer.json: not JSON at byte"));
  fs::resize_file(folder.path() / "tokenizer.json", uint64_t{1} << 30);
  EXPECT_THAT(message(folder), HasSubstr("1073741824 bytes, at most 67108864"));
  fs::remove(folder.path() / "tokenizer.json");
  fs::create_directory(folder.path() / "tokenizer.json");
  EXPECT_THAT(message(folder), HasSubstr("not a regular file"));
  fs::remove(folder.path() / "tokenizer.json");
  fs::create_symlink("/etc/passwd", folder.path() / "tokenizer.json");
  EXPECT_THAT(message(folder), HasSubstr("a link that leads out"));
  fs::remove(folder.path() / "tokenizer.json");
  ASSERT_EQ(mkfifo((folder.path() / "tokenizer.json").c_str(), 0600), 0);
  EXPECT_THAT(message(folder), HasSubstr("not a regular file"));
  EXPECT_THAT(std::string(LoadTokenizer("/nowhere", 256).status().message()),
              HasSubstr("/nowhere"));
}

}  // namespace
}  // namespace weir::text
