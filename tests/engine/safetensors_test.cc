// SPDX-License-Identifier: Apache-2.0
#include "engine/model/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/strict_json.h"
#include "gtest/gtest.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

using std::string_literals::operator""s;

std::string Word(const absl::Status& status) {
  const std::string message(status.message());
  return message.substr(0, message.find(':'));
}

// A header of one tensor "a" of 4 bytes, its entry replaced.
std::string Entry(const std::string& entry) { return "{\"a\":" + entry + "}"; }

std::string Repeated(const std::string& piece, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += piece;
  return out;
}

struct HostileFile {
  const char* name;
  std::string bytes;
  const char* word;
};

std::string WithLength(uint64_t length, const std::string& rest) {
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  return out + rest;
}

std::string ManyTensors(int count) {
  std::string header = "{";
  for (int i = 0; i < count; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) +
              R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  }
  return header + "}";
}

const char kGood[] = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";

std::string File(const std::string& header, size_t bytes) {
  return SafetensorsBytes(header, std::string(bytes, '\0'));
}

std::vector<HostileFile> FilesWithAWrongSize() {
  std::vector<HostileFile> files = {
      {"header longer than the file", WithLength(100, "{}"), "HEADER_SIZE"},
      {"header of 2^63", WithLength(uint64_t{1} << 63, "{}"), "HEADER_SIZE"},
      {"header of 2^64 - 1", WithLength(~uint64_t{0}, "{}"), "HEADER_SIZE"},
      {"header above 16 MiB",
       WithLength((16u << 20) + 1, std::string((16u << 20) + 9, ' ')),
       "HEADER_SIZE"},
      {"header of 0", WithLength(0, ""), "HEADER_SIZE"},
      {"header of 2", WithLength(2, "{}"), "HEADER_SIZE"},
  };
  for (size_t bytes = 0; bytes < 8; ++bytes) {
    files.push_back(
        {"a file of 0 to 7 bytes", std::string(bytes, '\0'), "HEADER_SIZE"});
  }
  return files;
}

std::vector<HostileFile> FilesWithAWrongHeader() {
  const std::string good = kGood;
  const std::vector<std::pair<const char*, std::string>> headers = {
      {"not UTF-8", "{\"\xff\xfe\":" + good + "}"},
      {"not JSON", "{\"a\": oops }"},
      {"ends early", "{\"a\":" + good},
      {"something after it", Entry(good) + "{}"},
      {"begins with a space", " " + Entry(good)},
      {"a list", "[1,2,3,4,5]"},
      {"depth 10^5",
       "{\"a\":" + Repeated("[", 100'000) + Repeated("]", 100'000) + "}"},
      {"depth 10^5, never closed", Repeated("{\"a\":", 100'000)},
      {"a tensor twice", "{\"a\":" + good + ",\"a\":" + good + "}"},
      {"a key twice",
       Entry(R"({"dtype":"F32","dtype":"F32","shape":[1],)"
             R"("data_offsets":[0,4]})")},
      {"a key too many",
       Entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})")},
      {"a key too few", Entry(R"({"dtype":"F32","shape":[1]})")},
      {"an entry that is a number", "{\"a\": 123456 }"},
      {"an empty name", "{\"\":" + good + "}"},
      {"a name of 600 bytes",
       "{\"" + std::string(600, 'n') + "\":" + good + "}"},
  };
  std::vector<HostileFile> files = {
      {"more than 10^5 tensors", File(ManyTensors(100'001), 0), "HEADER_JSON"}};
  for (const auto& [name, header] : headers) {
    files.push_back({name, File(header, 4), "HEADER_JSON"});
  }
  return files;
}

std::vector<HostileFile> FilesWithWrongOffsets() {
  const auto two = [](const char* a, const char* b, size_t bytes) {
    return File(
        std::string(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)") + a +
            R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + b + "}}",
        bytes);
  };
  return {
      {"overlap", two("[0,4]", "[2,6]", 6), "OFFSETS"},
      {"the same place", two("[0,4]", "[0,4]", 4), "OFFSETS"},
      {"a hole", two("[0,4]", "[8,12]", 12), "OFFSETS"},
      {"a hole at the start", two("[4,8]", "[8,12]", 12), "OFFSETS"},
      {"backwards", two("[0,4]", "[8,4]", 8), "OFFSETS"},
      {"beyond the end", two("[0,4]", "[4,8]", 7), "OFFSETS"},
      {"far beyond the end",
       two("[0,4]", "[18446744073709551612,18446744073709551615]", 8),
       "OFFSETS"},
      {"trailing bytes", two("[0,4]", "[4,8]", 9), "OFFSETS"},
      {"negative", two("[0,4]", "[-4,8]", 8), "OFFSETS"},
      {"three numbers", two("[0,4]", "[4,8,9]", 8), "OFFSETS"},
      {"a float", two("[0,4]", "[4.0,8]", 8), "OFFSETS"},
  };
}

std::vector<HostileFile> FilesWithAWrongShape() {
  const auto shaped = [](const std::string& shape, size_t bytes) {
    return File(Entry(R"({"dtype":"F32","shape":)" + shape +
                      R"(,"data_offsets":[0,)" + std::to_string(bytes) + "]}"),
                bytes);
  };
  return {
      {"too small for the bytes", shaped("[1]", 8), "SHAPE"},
      {"too large for the bytes", shaped("[3]", 8), "SHAPE"},
      {"product overflows to the bytes",
       shaped("[4294967296,4294967296,1]", 0),
       "SHAPE"},
      {"bytes overflow", shaped("[70368744177664,131072]", 0), "SHAPE"},
      {"negative", shaped("[-1]", 4), "SHAPE"},
      {"two negatives", shaped("[-1,-1]", 4), "SHAPE"},
      {"a float", shaped("[1.0]", 4), "SHAPE"},
      {"1e0", shaped("[1e0]", 4), "SHAPE"},
      {"beyond 64 bits", shaped("[18446744073709551617]", 4), "SHAPE"},
      {"a string", shaped("[\"1\"]", 4), "SHAPE"},
      {"no list", shaped("1", 4), "SHAPE"},
      {"nine dimensions", shaped("[1,1,1,1,1,1,1,1,1]", 4), "SHAPE"},
  };
}

std::vector<HostileFile> FilesWithAWrongDtype() {
  std::vector<HostileFile> files;
  for (const char* dtype : {"\"F64\"",
                            "\"I64\"",
                            "\"U8\"",
                            "\"BOOL\"",
                            "\"F8_E4M3\"",
                            "\"F4\"",
                            "\"f32\"",
                            "\"\"",
                            "\"F32 \"",
                            "7",
                            "[]"}) {
    files.push_back({dtype,
                     File(Entry(std::string(R"({"dtype":)") + dtype +
                                R"(,"shape":[1],"data_offsets":[0,4]})"),
                          4),
                     "DTYPE"});
  }
  return files;
}

std::vector<HostileFile> FilesWithWrongMetadata() {
  const auto metadata = [](const std::string& value) {
    return File(R"({"__metadata__":)" + value + R"(,"a":)" + kGood + "}", 4);
  };
  std::string many_entries = "{";
  for (int i = 0; i < 1100; ++i) {
    many_entries += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":\"\"";
  }
  many_entries += "}";
  return {
      {"a list", metadata("[]"), "METADATA"},
      {"with a number", metadata("{\"k\":1}"), "METADATA"},
      {"with an object", metadata("{\"k\":{}}"), "METADATA"},
      {"of 2 MiB",
       metadata("{\"k\":\"" + std::string(2u << 20, 'x') + "\"}"),
       "METADATA"},
      {"of 1100 entries", metadata(many_entries), "METADATA"},
  };
}

void ExpectRefused(const std::vector<HostileFile>& files) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  for (const HostileFile& hostile : files) {
    WriteFileBytes(path, hostile.bytes);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok()) << hostile.name;
    EXPECT_EQ(Word(file.status()), hostile.word)
        << hostile.name << ": " << file.status();
    EXPECT_NE(std::string(file.status().message()).find(path),
              std::string::npos)
        << hostile.name << ": " << file.status();
  }
}

TEST(SafetensorsFileTest, RefusesHeadersOfAWrongSize) {
  ExpectRefused(FilesWithAWrongSize());
}

TEST(SafetensorsFileTest, RefusesHeadersThatAreNotStrictJson) {
  ExpectRefused(FilesWithAWrongHeader());
}

TEST(SafetensorsFileTest, RefusesTensorsThatDoNotTileTheData) {
  ExpectRefused(FilesWithWrongOffsets());
}

TEST(SafetensorsFileTest, RefusesShapesThatDoNotFillTheBytes) {
  ExpectRefused(FilesWithAWrongShape());
}

TEST(SafetensorsFileTest, RefusesOtherDtypes) {
  ExpectRefused(FilesWithAWrongDtype());
}

TEST(SafetensorsFileTest, RefusesMetadataThatIsNotFewStrings) {
  ExpectRefused(FilesWithWrongMetadata());
}

TEST(SafetensorsFileTest, NoCutOrFlippedHeaderIsMoreThanRefused) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  TensorFile tensors;
  tensors.Add("first", {2, 3}, {1, 2, 3, 4, 5, 6});
  tensors.Add("second", {1}, {7});
  tensors.Write(path);
  const std::string good = ReadFileBytes(path);

  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    WriteFileBytes(path, good.substr(0, bytes));
    EXPECT_FALSE(SafetensorsFile::Open(path).ok()) << bytes;
  }
  for (size_t i = 0; i < good.size() - 28; ++i) {
    for (const char flip : {'\x01', '\x10', '\x7f', '\x80'}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      WriteFileBytes(path, bad);
      const auto file = SafetensorsFile::Open(path);
      // A flip within a name, or between two of the same size, may be well
      // formed; what is read then stays within the file.
      if (!file.ok()) continue;
      for (const auto& [name, info] : file->tensors()) {
        std::vector<float> values(static_cast<size_t>(info.elements));
        EXPECT_TRUE(file->Read(name, true, values).ok());
      }
    }
  }
}

TEST(SafetensorsFileTest, ReadsValuesOfEachDtype) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  TensorFile tensors;
  tensors.Add("f32", {2, 2}, {1.5f, -2, 3e-39f, 1e38f});
  tensors.tensors["bf16"] = {
      .dtype = "BF16",
      .shape = {3},
      .bytes = std::string("\x80\x3f\x20\xc1\x00\x00", 6)};
  tensors.tensors["f16"] = {
      .dtype = "F16",
      .shape = {6},
      .bytes =
          std::string("\x00\x3c\x00\xc0\xff\x7b\x01\x00\x00\x80\x00\x04", 12)};
  tensors.Write(path);

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();

  const auto read = [&](const std::string& name, size_t count) {
    std::vector<float> values(count);
    const absl::Status status = file->Read(name, false, values);
    EXPECT_TRUE(status.ok()) << status;
    return values;
  };
  EXPECT_EQ(read("f32", 4), (std::vector<float>{1.5f, -2, 3e-39f, 1e38f}));
  EXPECT_EQ(read("bf16", 3), (std::vector<float>{1, -10, 0}));
  const std::vector<float> halves = read("f16", 6);
  EXPECT_EQ(halves,
            (std::vector<float>{1, -2, 65504, 0x1p-24f, -0.0f, 0x1p-14f}));
  EXPECT_TRUE(std::signbit(halves[4]));
}

TEST(SafetensorsFileTest, AcceptsMetadataPaddingAndEmptyTensors) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  WriteFileBytes(
      path,
      SafetensorsBytes(
          R"({"__metadata__":{"format":"pt"},)"
          R"("z":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},)"
          R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}     )",
          std::string(4, '\0')));

  const auto file = SafetensorsFile::Open(path);

  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors().at("s").elements, 1);
}

TEST(SafetensorsFileTest, RefusesNonFiniteValuesUnlessAllowed) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    TensorFile tensors;
    tensors.Add("weight", {3}, {1, bad, 2});
    tensors.Write(path);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    std::vector<float> values(3);

    const absl::Status status = file->Read("weight", false, values);

    EXPECT_EQ(Word(status), "NON_FINITE");
    EXPECT_NE(status.message().find("weight"), absl::string_view::npos);
    EXPECT_TRUE(file->Read("weight", true, values).ok());
    EXPECT_EQ(values[2], 2);
  }
}

TEST(SafetensorsFileTest, RefusesNonFiniteValuesOfTwoBytesToo) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  const struct {
    const char* dtype;
    std::string bytes;
  } cases[] = {{"BF16", "\x80\x7f"s},  // infinity
               {"BF16", "\x80\xff"s},
               {"BF16", "\xc0\x7f"s},  // NaN
               {"BF16", "\x81\x7f"s},  // NaN, signalling
               {"F16", "\x00\x7c"s},
               {"F16", "\x00\xfc"s},
               {"F16", "\x00\x7e"s},
               {"F16", "\x01\x7c"s}};
  for (const auto& [dtype, bytes] : cases) {
    TensorFile tensors;
    tensors.tensors["weight"] = {
        .dtype = dtype, .shape = {3}, .bytes = "\0\0"s + bytes + "\0\0"s};
    tensors.Write(path);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    std::vector<float> values(3);

    EXPECT_EQ(Word(file->Read("weight", false, values)), "NON_FINITE")
        << dtype << testing::PrintToString(bytes);
    EXPECT_TRUE(file->Read("weight", true, values).ok());
    EXPECT_FALSE(std::isfinite(values[1]));
    EXPECT_EQ(values[2], 0);
  }
}

TEST(SafetensorsFileTest, AFileCutWhileItIsReadIsAnError) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  TensorFile tensors;
  tensors.Add("weight", {1 << 20}, std::vector<float>(1 << 20, 1.0f));
  tensors.Write(path);
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> values(1 << 20);

  ASSERT_EQ(truncate(path.c_str(), 1 << 21), 0);
  const absl::Status status = file->Read("weight", false, values);

  EXPECT_EQ(Word(status), "TRUNCATED");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST(SafetensorsFileTest, ReadNamesAnUnknownTensorAndAWrongSize) {
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors");
  TensorFile tensors;
  tensors.Add("weight", {3}, {1, 2, 3});
  tensors.Write(path);
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> values(4);

  EXPECT_EQ(Word(file->Read("weights", false, values)), "MISSING_TENSOR");
  EXPECT_EQ(Word(file->Read("weight", false, values)), "WRONG_SHAPE");
}

TEST(SafetensorsFileTest, AFolderAPipeAndNothingAreNotRead) {
  const TempFolder folder;
  const std::string pipe = folder.File("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);

  EXPECT_EQ(Word(SafetensorsFile::Open(pipe).status()), "IO");
  EXPECT_EQ(Word(SafetensorsFile::Open(folder.path()).status()), "IO");
  EXPECT_EQ(SafetensorsFile::Open(folder.File("none")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(StrictJsonTest, KeepsItsLimits) {
  EXPECT_TRUE(ParseStrictJson("{\"a\":[1,2]}", {.depth = 2}).ok());
  EXPECT_FALSE(ParseStrictJson("{\"a\":[1,2]}", {.depth = 1}).ok());
  EXPECT_TRUE(ParseStrictJson("[1,2,3]", {.depth = 2, .values = 4}).ok());
  EXPECT_FALSE(ParseStrictJson("[1,2,3]", {.depth = 2, .values = 3}).ok());
  EXPECT_FALSE(ParseStrictJson("", {}).ok());
  EXPECT_FALSE(ParseStrictJson("1e999", {}).ok());
  EXPECT_FALSE(ParseStrictJson("{\"a\":1,\"\\u0061\":2}", {}).ok());
}

TEST(StrictJsonTest, QuotesBareWordsOutsideStringsOnly) {
  EXPECT_EQ(QuoteNonFiniteWords(R"([0.0, Infinity, -Infinity, NaN])"),
            R"([0.0, "Infinity", "-Infinity", "NaN"])");
  EXPECT_EQ(QuoteNonFiniteWords(R"({"a \" NaN": "Infinity\\", "b": 1})"),
            R"({"a \" NaN": "Infinity\\", "b": 1})");
}

TEST(StrictJsonTest, MessagesQuoteNamesSafely) {
  EXPECT_EQ(Quoted("a\nb\x1b[31m"), "\"a\\nb\\x1b[31m\"");
  EXPECT_LT(Quoted(std::string(10'000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace weir::engine
