// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint.h"

#include <sys/resource.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/torch_engine.h"
#include "gtest/gtest.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSmall = "tests/golden/fla_gated_deltanet";
constexpr const char* kTied = "tests/golden/mamba2_limit";

std::string Word(const absl::Status& status) {
  const std::string message(status.message());
  return message.substr(0, message.find(':'));
}

// Loads it, and looks at it without: both must say the same but for values.
absl::Status Load(const std::string& folder, bool allow_nonfinite = false) {
  const absl::Status loaded =
      TorchEngine::Create(
          {.model_dir = folder, .slots = 1, .allow_nonfinite = allow_nonfinite})
          .status();
  const absl::Status seen = TorchEngine::Inspect(folder).status();
  if (Word(loaded) == "NON_FINITE") {
    EXPECT_TRUE(seen.ok()) << seen;
  } else {
    EXPECT_EQ(seen, loaded);
  }
  return loaded;
}

// Moves the model's tensors into two shards and writes their index.
void Shard(const ModelCopy& model, json weight_map = json::object()) {
  fs::remove(model.File("model.safetensors"));
  TensorFile shards[2];
  const char* names[] = {"model-1.safetensors", "model-2.safetensors"};
  int next = 0;
  const bool own_map = weight_map.empty();
  for (const auto& [name, tensor] : model.weights.tensors) {
    const int shard = next++ % 2;
    shards[shard].tensors[name] = tensor;
    if (own_map) weight_map[name] = names[shard];
  }
  for (int i = 0; i < 2; ++i) shards[i].Write(model.File(names[i]));
  WriteFileBytes(
      model.File("model.safetensors.index.json"),
      json{{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}
          .dump());
}

json MapOf(const ModelCopy& model, const std::string& file) {
  json map;
  for (const auto& [name, tensor] : model.weights.tensors) map[name] = file;
  return map;
}

TEST(CheckpointTest, LoadsAFolderAndItsShards) {
  ModelCopy model(kSmall);
  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());

  Shard(model);

  EXPECT_FALSE(fs::exists(model.File("model.safetensors")));
  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());
}

TEST(CheckpointTest, RefusesNamesInTheIndexThatLeadElsewhere) {
  for (const char* name : {"../model.safetensors",
                           "/etc/passwd",
                           "sub/model.safetensors",
                           "..",
                           "",
                           "model.bin",
                           "..\\model.safetensors",
                           "model-1.safetensors/",
                           "https://example.org/model.safetensors"}) {
    ModelCopy model(kSmall);
    Shard(model, MapOf(model, name));
    const absl::Status status = Load(model.path());
    EXPECT_EQ(Word(status), "INDEX") << name << ": " << status;
  }
}

TEST(CheckpointTest, RefusesALinkThatLeadsOutOfTheFolder) {
  ModelCopy outside(kSmall);
  ModelCopy model(kSmall);
  Shard(model);
  fs::remove(model.File("model-2.safetensors"));
  fs::create_symlink(outside.File("model.safetensors"),
                     model.File("model-2.safetensors"));
  EXPECT_EQ(Word(Load(model.path())), "INDEX") << Load(model.path());

  ModelCopy single(kSmall);
  fs::remove(single.File("model.safetensors"));
  fs::create_symlink(outside.File("model.safetensors"),
                     single.File("model.safetensors"));
  EXPECT_EQ(Word(Load(single.path())), "FORMAT") << Load(single.path());
}

TEST(CheckpointTest, FollowsALinkWithinTheFolder) {
  ModelCopy model(kSmall);
  fs::rename(model.File("model.safetensors"), model.File("blob"));
  fs::create_symlink("blob", model.File("model.safetensors"));

  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());
}

TEST(CheckpointTest, RefusesAnIndexThatDoesNotFitItsShards) {
  ModelCopy missing_shard(kSmall);
  Shard(missing_shard);
  fs::remove(missing_shard.File("model-2.safetensors"));
  EXPECT_EQ(Word(Load(missing_shard.path())), "INDEX");

  ModelCopy twice(kSmall);
  Shard(twice);
  TensorFile second = TensorFile::Read(twice.File("model-2.safetensors"));
  const TensorFile first = TensorFile::Read(twice.File("model-1.safetensors"));
  second.tensors.insert(*first.tensors.begin());
  second.Write(twice.File("model-2.safetensors"));
  EXPECT_EQ(Word(Load(twice.path())), "INDEX") << Load(twice.path());

  ModelCopy unlisted(kSmall);
  Shard(unlisted);
  TensorFile more = TensorFile::Read(unlisted.File("model-2.safetensors"));
  more.Add("unlisted", {1}, {1});
  more.Write(unlisted.File("model-2.safetensors"));
  EXPECT_EQ(Word(Load(unlisted.path())), "EXTRA_TENSOR");

  ModelCopy lacking(kSmall);
  Shard(lacking);
  TensorFile less = TensorFile::Read(lacking.File("model-2.safetensors"));
  const std::string gone = less.tensors.begin()->first;
  less.tensors.erase(gone);
  less.Write(lacking.File("model-2.safetensors"));
  EXPECT_EQ(Word(Load(lacking.path())), "MISSING_TENSOR");
  EXPECT_NE(Load(lacking.path()).message().find(gone), absl::string_view::npos);
}

TEST(CheckpointTest, AFileThatTheIndexDoesNotListIsNotRead) {
  ModelCopy model(kSmall);
  Shard(model);
  WriteFileBytes(model.File("model-3.safetensors"), "no safetensors");

  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());
}

TEST(CheckpointTest, NoCodeBesideTheWeightsMatters) {
  ModelCopy model(kSmall);
  for (const char* name :
       {"modeling_gated_deltanet.py", "pytorch_model.bin", "setup.py"}) {
    WriteFileBytes(model.File(name), "raise SystemExit");
  }

  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());
}

TEST(CheckpointTest, RefusesAnIndexThatIsNoIndex) {
  for (const char* index :
       {"",
        "[]",
        "{}",
        R"({"weight_map":[]})",
        R"({"weight_map":{}})",
        R"({"weight_map":{"a":1}})",
        R"({"weight_map":{"a":"b.safetensors","a":"c.safetensors"}})",
        "\xff{}"}) {
    ModelCopy model(kSmall);
    fs::remove(model.File("model.safetensors"));
    WriteFileBytes(model.File("model.safetensors.index.json"), index);
    EXPECT_EQ(Word(Load(model.path())), "INDEX") << index;
  }
}

struct WrongTensors {
  const char* name;
  std::function<void(TensorFile&)> change;
  const char* word;
  const char* names;
};

TEST(CheckpointTest, NamesATensorThatDoesNotFitTheConfiguration) {
  const std::vector<WrongTensors> cases = {
      {"missing",
       [](TensorFile& file) {
         file.tensors.erase("model.layers.1.attn.A_log");
       },
       "MISSING_TENSOR",
       "model.layers.1.attn.A_log"},
      {"no head",
       [](TensorFile& file) { file.tensors.erase("lm_head.weight"); },
       "MISSING_TENSOR",
       "lm_head.weight"},
      {"extra",
       [](TensorFile& file) {
         file.Add("model.layers.1.attn.q_proj.bias", {1}, {0});
       },
       "EXTRA_TENSOR",
       "model.layers.1.attn.q_proj.bias"},
      {"a layer too many",
       [](TensorFile& file) {
         file.tensors["model.layers.2.attn_norm.weight"] =
             file.tensors["model.layers.1.attn_norm.weight"];
       },
       "EXTRA_TENSOR",
       "model.layers.2.attn_norm.weight"},
      {"transposed",
       [](TensorFile& file) {
         auto& shape =
             file.tensors["model.layers.0.mlp.down_proj.weight"].shape;
         std::swap(shape[0], shape[1]);
       },
       "WRONG_SHAPE",
       "model.layers.0.mlp.down_proj.weight"},
      {"flattened",
       [](TensorFile& file) {
         file.tensors["model.layers.0.attn.q_conv1d.weight"].shape = {128};
       },
       "WRONG_SHAPE",
       "model.layers.0.attn.q_conv1d.weight"},
      {"not finite",
       [](TensorFile& file) {
         std::vector<float> values =
             file.Floats("model.layers.1.mlp.up_proj.weight");
         values[77] = std::numeric_limits<float>::infinity();
         file.Add("model.layers.1.mlp.up_proj.weight", {96, 64}, values);
       },
       "NON_FINITE",
       "model.layers.1.mlp.up_proj.weight"},
  };
  for (const WrongTensors& wrong : cases) {
    ModelCopy model(kSmall);
    wrong.change(model.weights);
    model.Write();
    const absl::Status status = Load(model.path());
    EXPECT_EQ(Word(status), wrong.word) << wrong.name << ": " << status;
    EXPECT_NE(status.message().find(wrong.names), absl::string_view::npos)
        << wrong.name << ": " << status;
  }
}

TEST(CheckpointTest, LoadsNonFiniteWeightsWhereAllowed) {
  ModelCopy model(kSmall);
  std::vector<float> values =
      model.weights.Floats("model.layers.1.mlp.up_proj.weight");
  values[0] = std::numeric_limits<float>::quiet_NaN();
  model.weights.Add("model.layers.1.mlp.up_proj.weight", {96, 64}, values);
  model.Write();

  EXPECT_EQ(Word(Load(model.path())), "NON_FINITE");
  EXPECT_TRUE(Load(model.path(), /*allow_nonfinite=*/true).ok());
}

TEST(CheckpointTest, ATiedHeadMayStandInTheFileIfItHasTheShape) {
  ModelCopy model(kTied);
  const bool had_head = model.weights.tensors.erase("lm_head.weight") > 0;
  model.Write();
  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());
  EXPECT_FALSE(had_head);

  model.weights.tensors["lm_head.weight"] =
      model.weights.tensors["backbone.embeddings.weight"];
  model.Write();
  EXPECT_TRUE(Load(model.path()).ok()) << Load(model.path());

  model.weights.tensors["lm_head.weight"].shape = {64, 259};
  model.Write();
  EXPECT_EQ(Word(Load(model.path())), "WRONG_SHAPE");
}

TEST(CheckpointTest, FilesMustMatchSha256Sums) {
  // printf 'abc' | sha256sum
  const std::string abc =
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  ModelCopy model(kSmall);
  WriteFileBytes(model.File("note"), "abc");
  const auto load_with = [&](const std::string& sums) {
    WriteFileBytes(model.File("SHA256SUMS"), sums);
    return Load(model.path());
  };

  EXPECT_TRUE(load_with(abc + "  note\n").ok());
  EXPECT_TRUE(load_with(abc + " *note").ok());
  EXPECT_TRUE(load_with("BA" + abc.substr(2) + "  note\n").ok());
  EXPECT_EQ(Word(load_with("00" + abc.substr(2) + "  note\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with(abc + "  model.safetensors\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with(abc + "  absent\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with(abc + "  ../note\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with(abc + " note\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with("oops\n")), "INTEGRITY");
  EXPECT_EQ(Word(load_with(std::string(64, 'g') + "  note\n")), "INTEGRITY");
}

TEST(CheckpointTest, OtherFormatsAreNamedAndNotRead) {
  for (const char* name : {"pytorch_model.bin",
                           "model.gguf",
                           "model.onnx",
                           "model.pt",
                           "weights.pkl"}) {
    ModelCopy model(kSmall);
    fs::rename(model.File("model.safetensors"), model.File(name));
    const absl::Status status = Load(model.path());
    EXPECT_EQ(Word(status), "FORMAT") << status;
    EXPECT_NE(status.message().find(name), absl::string_view::npos) << status;
    EXPECT_NE(status.message().find("convert the weights to safetensors"),
              absl::string_view::npos)
        << status;
  }
}

TEST(CheckpointTest, AModelIsAFolderWithAConfiguration) {
  ModelCopy model(kSmall);
  EXPECT_EQ(Word(Load("https://example.org/model")), "FORMAT");
  EXPECT_EQ(Word(Load(model.File("config.json"))), "FORMAT");
  EXPECT_EQ(Load(model.File("absent")).code(), absl::StatusCode::kNotFound);
  fs::remove(model.File("config.json"));
  EXPECT_EQ(Word(Load(model.path())), "CONFIG");
  const TempFolder empty;
  WriteFileBytes(empty.File("config.json"), "{}");
  EXPECT_EQ(Load(empty.path()).code(), absl::StatusCode::kNotFound);
}

// Shapes are compared before memory is taken: this one would want 51 GB.
TEST(CheckpointTest, AHugeConfigurationOverASmallFileTakesNoMemory) {
  ModelCopy model(kSmall);
  model.config["num_hidden_layers"] = 1024;
  model.config["num_heads"] = 4096;
  model.config["num_v_heads"] = 4096;
  model.config["head_dim"] = 1024;
  model.config["expand_v"] = 1.0;
  model.config["use_short_conv"] = false;
  model.Write();
  rusage before;
  getrusage(RUSAGE_SELF, &before);

  EXPECT_EQ(Word(Load(model.path())), "MISSING_TENSOR");

  rusage after;
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 256 << 10);  // KiB
}

}  // namespace
}  // namespace weir::engine
