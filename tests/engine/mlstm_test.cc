// SPDX-License-Identifier: Apache-2.0
//
// The two layouts of an xLSTM's weights hold the same model.
#include <cstdint>
#include <string>
#include <vector>

#include "engine/torch_engine.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_files.h"

namespace weir::engine {
namespace {

constexpr uint64_t kSeed = 20261124;
constexpr size_t kTokens = 200;

// One tensor of several whose rows it holds end to end.
void Fuse(TensorFile& file,
          const std::string& prefix,
          const std::vector<std::string>& names,
          const std::string& fused) {
  TensorFile::Tensor whole = file.tensors.at(prefix + names[0]);
  whole.shape[0] = 0;
  whole.bytes.clear();
  for (const std::string& name : names) {
    const TensorFile::Tensor& part = file.tensors.at(prefix + name);
    whole.shape[0] += part.shape[0];
    whole.bytes += part.bytes;
    file.tensors.erase(prefix + name);
  }
  file.tensors[prefix + fused] = whole;
}

std::vector<float> ScoresOf(const std::string& folder) {
  auto engine = TorchEngine::Create({.model_dir = folder, .slots = 1});
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return {};
  const int32_t slot = *(*engine)->AcquireSlot();
  const auto tokens = RandomTokens(259, kTokens, kSeed);
  auto scores = FeedInPieces(**engine, slot, tokens, 70);
  // The first is NaN, equal to nothing.
  if (!scores.empty()) scores.erase(scores.begin());
  return scores;
}

TEST(MlstmTest, FusedWeightsScoreAsSingleOnes) {
  ModelCopy fused("tests/golden/xlstm");
  fused.config["weight_mode"] = "fused";
  for (const char* layer : {"0", "1"}) {
    const std::string block = "backbone.blocks." + std::string(layer) + ".";
    Fuse(fused.weights,
         block + "mlstm_layer.",
         {"q.weight", "k.weight", "v.weight", "ogate_preact.weight"},
         "qkv_opreact.weight");
    for (const char* kind : {".weight", ".bias"}) {
      Fuse(fused.weights,
           block + "mlstm_layer.",
           {std::string("igate_preact") + kind,
            std::string("fgate_preact") + kind},
           std::string("ifgate_preact") + kind);
    }
    Fuse(fused.weights,
         block + "ffn.",
         {"proj_up_gate.weight", "proj_up.weight"},
         "proj_up_gate_z.weight");
  }
  fused.Write();

  const std::vector<float> scores = ScoresOf(fused.path());

  ASSERT_EQ(scores.size(), kTokens - 1);
  EXPECT_EQ(scores, ScoresOf(SourcePath("tests/golden/xlstm")));
}

}  // namespace
}  // namespace weir::engine
