// SPDX-License-Identifier: Apache-2.0
//
// What every loader refuses, tried on every checkpoint of tests/golden: tensors
// that are missing, too many, of another shape or not finite, and keys of the
// configuration that are out of range or unknown. The refusal names them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/model.h"
#include "gtest/gtest.h"
#include "tests/engine/model_files.h"
#include "tests/engine/source_path.h"

namespace weir::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::string> Folders() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(SourcePath("tests/golden"))) {
    if (fs::exists(entry.path() / "model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string Word(const absl::Status& status) {
  const std::string message(status.message());
  return message.substr(0, message.find(':'));
}

bool Names(const absl::Status& status, const std::string& name) {
  return std::string(status.message()).find("\"" + name + "\"") !=
         std::string::npos;
}

// The tensors with no value on the disk: where only the header is looked at.
void WriteSparse(const TensorFile& file, const std::string& path) {
  json header = json::object();
  uintmax_t end = 0;
  for (const auto& [name, tensor] : file.tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {end, end + tensor.bytes.size()}}};
    end += tensor.bytes.size();
  }
  WriteFileBytes(path, SafetensorsBytes(header.dump(), ""));
  fs::resize_file(path, fs::file_size(path) + end);
}

// Overwrites the value that begins `from_end` bytes before the file's end.
void Overwrite(const std::string& path, int64_t from_end, float value) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-from_end, std::ios::end);
  file.write(reinterpret_cast<const char*>(&value), sizeof(value));
  EXPECT_TRUE(file.good());
}

class FamilyRefusalTest : public testing::TestWithParam<std::string> {
 protected:
  FamilyRefusalTest() : model_("tests/golden/" + GetParam()) {}

  absl::Status Inspect() const {
    return Model::Inspect(model_.path()).status();
  }
  absl::Status Load() const {
    return Model::Load(model_.path(), {.pass_tokens_max = 1}).status();
  }

  ModelCopy model_;
};

TEST_P(FamilyRefusalTest, ATensorThatIsMissingIsNamed) {
  for (const auto& [name, tensor] : model_.weights.tensors) {
    TensorFile less = model_.weights;
    less.tensors.erase(name);
    WriteSparse(less, model_.File("model.safetensors"));
    const absl::Status status = Inspect();
    EXPECT_EQ(Word(status), "MISSING_TENSOR") << name << ": " << status;
    EXPECT_TRUE(Names(status, name)) << status;
  }
}

TEST_P(FamilyRefusalTest, ATensorOfAnotherShapeIsNamed) {
  for (const auto& [name, tensor] : model_.weights.tensors) {
    TensorFile other = model_.weights;
    other.tensors[name].shape.push_back(1);
    WriteSparse(other, model_.File("model.safetensors"));
    const absl::Status status = Inspect();
    EXPECT_EQ(Word(status), "WRONG_SHAPE") << name << ": " << status;
    EXPECT_TRUE(Names(status, name)) << status;
  }
}

TEST_P(FamilyRefusalTest, ATensorTooManyIsNamed) {
  const std::string first = model_.weights.tensors.begin()->first;
  for (const std::string& name : {first + ".extra", std::string("intruder")}) {
    TensorFile more = model_.weights;
    more.Add(name, {1}, {0});
    more.Write(model_.File("model.safetensors"));
    const absl::Status status = Inspect();
    EXPECT_EQ(Word(status), "EXTRA_TENSOR") << status;
    EXPECT_TRUE(Names(status, name)) << status;
  }
}

TEST_P(FamilyRefusalTest, ATensorThatIsNotFiniteIsNamed) {
  int64_t left = 0;  // bytes of this tensor and those after it
  for (const auto& [name, tensor] : model_.weights.tensors) {
    left += static_cast<int64_t>(tensor.bytes.size());
  }
  for (const auto& [name, tensor] : model_.weights.tensors) {
    const float good = model_.weights.Floats(name).front();
    Overwrite(model_.File("model.safetensors"), left, NAN);
    const absl::Status status = Load();
    EXPECT_EQ(Word(status), "NON_FINITE") << name << ": " << status;
    EXPECT_TRUE(Names(status, name)) << status;
    Overwrite(model_.File("model.safetensors"), left, good);
    left -= static_cast<int64_t>(tensor.bytes.size());
  }
  EXPECT_TRUE(Load().ok()) << Load();
}

TEST_P(FamilyRefusalTest, AKeyThatIsUnknownIsNamed) {
  model_.config["unheard_of"] = 1;
  model_.Write();

  EXPECT_EQ(Word(Inspect()), "CONFIG");
  EXPECT_TRUE(Names(Inspect(), "unheard_of")) << Inspect();
}

// How weights are drawn before training, and how other code cuts its work:
// numbers that change nothing of what is computed here.
bool HasNoEffect(const json& config, const std::string& key) {
  static const std::set<std::string> keys = {"bos_token_id",
                                             "chunk_size",
                                             "dt_init_floor",
                                             "dt_max",
                                             "dt_min",
                                             "dt_scale",
                                             "eos_token_id",
                                             "initializer_range",
                                             "max_inference_chunksize",
                                             "pad_token_id",
                                             "rescale_every",
                                             "time_step_floor",
                                             "time_step_max",
                                             "time_step_min",
                                             "time_step_scale"};
  // Mamba-2 has no such rank; a convolution that is switched off no width.
  if (key == "time_step_rank") return config["model_type"] == "mamba2";
  if (key == "conv_size") return !config.value("use_short_conv", true);
  return keys.contains(key);
}

TEST_P(FamilyRefusalTest, ANumberOutOfRangeIsRefused) {
  const json good = model_.config;
  size_t tried = 0;
  for (const auto& [key, value] : good.items()) {
    if (!value.is_number() || HasNoEffect(good, key)) continue;
    for (const char* bad : {"-1",
                            "-1e30",
                            "1000000000000000",
                            "18446744073709551615",
                            "1e300",
                            "\"NaN\"",
                            "\"Infinity\"",
                            "[1]",
                            "{}"}) {
      // KDA's bound of a logarithm is below zero.
      if (key == "lower_bound" && bad == std::string_view("-1")) continue;
      model_.config[key] = json::parse(bad);
      WriteFileBytes(model_.File("config.json"), model_.config.dump());
      const absl::Status status = Inspect();
      EXPECT_FALSE(status.ok()) << key << " = " << bad;
      ++tried;
    }
    model_.config[key] = value;
  }
  EXPECT_GE(tried, 20u);
}

INSTANTIATE_TEST_SUITE_P(Golden,
                         FamilyRefusalTest,
                         testing::ValuesIn(Folders()),
                         [](const auto& info) { return info.param; });

TEST(FamilyRefusalsTest, NoFolderHasGoneAstray) {
  EXPECT_GE(Folders().size(), 19u);
}

}  // namespace
}  // namespace weir::engine
