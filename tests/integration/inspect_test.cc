// SPDX-License-Identifier: Apache-2.0
//
// `weir models inspect` on model folders, good ones and others.
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model_files.h"
#include "tests/engine/source_path.h"
#include "tests/integration/process.h"

namespace weir::integration {
namespace {

using engine::ModelCopy;
using engine::SourcePath;
using engine::WriteFileBytes;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

namespace fs = std::filesystem;

constexpr const char* kSmall = "tests/golden/fla_gated_deltanet";

struct Said {
  int code = 0;
  std::string out;
  std::string err;
};

Said Inspect(const std::string& folder, const Words& flags = {}) {
  Words words = flags;
  words.insert(words.end(), {"models", "inspect", folder});
  Process weir(WEIR_BINARY, words);
  Said said;
  said.out = weir.RestOfOut();
  said.err = weir.RestOfErr();
  said.code = weir.Wait();
  return said;
}

json Inspected(const std::string& folder) {
  const Said said = Inspect(folder, {"--json"});
  EXPECT_EQ(said.code, 0) << said.err;
  return json::parse(said.out, nullptr, false);
}

TEST(InspectTest, SaysOfEveryGoldenFolderWhatItHolds) {
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(SourcePath("tests/golden"))) {
    const fs::path& folder = entry.path();
    if (!fs::exists(folder / "meta.json")) continue;
    SCOPED_TRACE(folder.filename().string());
    const json meta = json::parse(std::ifstream(folder / "meta.json"));
    const json config = json::parse(std::ifstream(folder / "config.json"));

    const json said = Inspected(folder.string());

    EXPECT_EQ(said["family"], config["model_type"]);
    EXPECT_GT(said["layers"], 0);
    EXPECT_EQ(said["vocabulary"], config["vocab_size"]);
    EXPECT_EQ(said.at("positions_max"), nullptr);
    // What is stored and used by nobody, or computed, is not in both.
    EXPECT_NEAR(said["parameters"].get<double>(),
                meta["params"].get<double>(),
                0.05 * meta["params"].get<double>());
    uint64_t bytes = 0;
    for (const json& tensor : said["state"]) {
      uint64_t product = sizeof(float);
      for (const json& extent : tensor["shape"]) {
        product *= extent.get<uint64_t>();
      }
      EXPECT_EQ(tensor["bytes"], product) << tensor["name"];
      bytes += product;
    }
    EXPECT_EQ(said["state_bytes"], bytes);
    EXPECT_GE(said["slot_bytes"], bytes);
    EXPECT_EQ(said["sessions_per_gib"],
              (uint64_t{1} << 30) / said["slot_bytes"].get<uint64_t>());
    ++seen;
  }
  EXPECT_GE(seen, 18u);
}

TEST(InspectTest, ShowsTheDemoModelToPeople) {
  const Said said = Inspect(SourcePath("models/demo"));

  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_THAT(said.out,
              AllOf(HasSubstr("family          gated_deltanet\n"),
                    HasSubstr("parameters      7,451,456 (7,451,392 bf16 and "
                              "64 f32), 14.2 MiB\n"),
                    HasSubstr("layers          8\n"),
                    HasSubstr("tokenizer       bytes, 256 tokens\n"),
                    HasSubstr("trained length  8,192 tokens\n"),
                    HasSubstr("positions max   no limit\n"),
                    HasSubstr("585 KiB a session, 1,792 sessions a GiB\n"),
                    HasSubstr("layers.*.recurrent  4 x 64 x 64  64 KiB      8"),
                    HasSubstr("output ")));
  EXPECT_EQ(said.err, "");
}

TEST(InspectTest, LooksAtAFolderOfAnyNameInAnyEnvironment) {
  const engine::TempFolder outer;
  const std::string folder = outer.File("a=b c");
  fs::copy(SourcePath(kSmall), folder);
  WriteFileBytes(folder + "/tokenizer.model", "");
  setenv("WEIR_NO_SUCH_OPTION", "1", 1);

  const json said = Inspected(folder);

  unsetenv("WEIR_NO_SUCH_OPTION");
  EXPECT_EQ(said["folder"], folder);
  EXPECT_EQ(said["tokenizer"], nullptr);
  EXPECT_EQ(said["trained_length"], 2048);
  EXPECT_THAT(Inspect(folder).out, HasSubstr("none: token ids only"));
}

struct Broken {
  const char* word;
  const char* names;
  std::function<void(ModelCopy&)> change;
};

TEST(InspectTest, RefusesByTheSameWordsAsTheServer) {
  const Broken cases[] = {
      {"MISSING_TENSOR",
       "model.layers.1.attn.A_log",
       [](ModelCopy& model) {
         model.weights.tensors.erase("model.layers.1.attn.A_log");
         model.Write();
       }},
      {"CONFIG",
       "\"rope_theta\"",
       [](ModelCopy& model) {
         model.config["rope_theta"] = 10000;
         model.Write();
       }},
      {"OFFSETS",
       "model.safetensors",
       [](ModelCopy& model) {
         const std::string file = model.File("model.safetensors");
         fs::resize_file(file, fs::file_size(file) - 4);
       }},
      {"FORMAT",
       "pytorch_model.bin",
       [](ModelCopy& model) {
         fs::rename(model.File("model.safetensors"),
                    model.File("pytorch_model.bin"));
       }},
      {"tokenizer", "tokenizer.json", [](ModelCopy& model) {
         WriteFileBytes(model.File("tokenizer.json"), "{");
       }}};
  for (const Broken& broken : cases) {
    SCOPED_TRACE(broken.word);
    ModelCopy model(kSmall);
    broken.change(model);

    const Said said = Inspect(model.path(), {"--json"});

    EXPECT_EQ(said.code, 1);
    EXPECT_THAT(said.err,
                AllOf(StartsWith("weir: "),
                      HasSubstr(broken.word),
                      HasSubstr(broken.names)));
    EXPECT_THAT(json::parse(said.out)["message"].get<std::string>(),
                HasSubstr(broken.word));
  }
  EXPECT_THAT(Inspect("/no/such/folder").err, StartsWith("weir: IO: /no/such"));
  EXPECT_EQ(Inspect("").code, 1);
}

TEST(InspectTest, SaysWhatIsMissingWhereThereIsNoServerProgram) {
  const engine::TempFolder bin;
  fs::copy(WEIR_BINARY, bin.File("weir"));
  const std::string path = getenv("PATH");
  setenv("PATH", bin.path().c_str(), 1);
  Process weir(bin.File("weir"), {"models", "inspect", SourcePath(kSmall)});
  setenv("PATH", path.c_str(), 1);

  EXPECT_THAT(weir.RestOfErr(),
              HasSubstr("weir: weir-server cannot be started"));
  EXPECT_EQ(weir.Wait(), 1);
}

}  // namespace
}  // namespace weir::integration
