// SPDX-License-Identifier: Apache-2.0
#include "bench/random_model.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace weir::bench {
namespace {

constexpr int32_t kVocabulary = 256;

// How a tensor's values are drawn.
enum class Fill { kNormal, kOnes, kDecay, kTimeStep };

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  Fill fill = Fill::kNormal;
};

int64_t Elements(const Tensor& tensor) {
  int64_t count = 1;
  for (int64_t extent : tensor.shape) count *= extent;
  return count;
}

std::vector<float> Values(const Tensor& tensor, std::mt19937_64& random) {
  std::vector<float> values(static_cast<size_t>(Elements(tensor)));
  // Keeps activations of order one whatever the width.
  const float scale = 1.0f / std::sqrt(static_cast<float>(tensor.shape.back()));
  std::normal_distribution<float> normal(0.0f, scale);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (float& value : values) {
    switch (tensor.fill) {
      case Fill::kNormal:
        value = normal(random);
        break;
      case Fill::kOnes:
        value = 1.0f;
        break;
      case Fill::kDecay:
        value = std::log(1.0f + 15.0f * uniform(random));
        break;
      case Fill::kTimeStep:
        // softplus of it lies between 0.001 and 0.1, as models start.
        value =
            std::log(std::expm1(0.001f * std::pow(100.0f, uniform(random))));
        break;
    }
  }
  return values;
}

absl::Status WriteFolder(const std::filesystem::path& folder,
                         const nlohmann::json& config,
                         const std::vector<Tensor>& tensors,
                         uint64_t seed) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::UnknownError("cannot make " + folder.string() + ": " +
                              error.message());
  }
  std::ofstream(folder / "config.json") << config.dump(1) << "\n";

  nlohmann::json header;
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t end = offset + Elements(tensor) * 4;
    header[tensor.name] = {{"dtype", "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << text;
  std::mt19937_64 random(seed);
  for (const Tensor& tensor : tensors) {
    const std::vector<float> values = Values(tensor, random);
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  file.close();
  if (!file) {
    return absl::UnknownError("cannot write " +
                              (folder / "model.safetensors").string());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteDeltaNet(const DeltaNetShape& shape,
                           uint64_t seed,
                           const std::filesystem::path& folder) {
  const int64_t hidden = shape.hidden;
  const int64_t inner = hidden * 11 / 4;
  const int64_t head_dim = hidden / shape.heads;
  const nlohmann::json config = {
      {"model_type", "gated_deltanet"},
      {"architectures", {"GatedDeltaNetForCausalLM"}},
      {"hidden_size", hidden},
      {"num_hidden_layers", shape.layers},
      {"num_heads", shape.heads},
      {"head_dim", head_dim},
      {"expand_v", 1},
      {"intermediate_size", inner},
      {"conv_size", 4},
      {"norm_eps", 1e-6},
      {"use_gate", true},
      {"use_short_conv", true},
      {"allow_neg_eigval", false},
      {"hidden_act", "swish"},
      {"tie_word_embeddings", true},
      {"vocab_size", kVocabulary},
      {"bos_token_id", 0},
      {"dtype", "float32"}};
  std::vector<Tensor> tensors = {
      {"model.embeddings.weight", {kVocabulary, hidden}},
      {"model.norm.weight", {hidden}, Fill::kOnes}};
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    tensors.push_back({at + "attn_norm.weight", {hidden}, Fill::kOnes});
    tensors.push_back({at + "mlp_norm.weight", {hidden}, Fill::kOnes});
    for (const char* name : {"q", "k", "v", "g", "o"}) {
      tensors.push_back(
          {at + "attn." + name + "_proj.weight", {hidden, hidden}});
    }
    for (const char* name : {"a", "b"}) {
      tensors.push_back(
          {at + "attn." + name + "_proj.weight", {shape.heads, hidden}});
    }
    for (const char* name : {"q", "k", "v"}) {
      tensors.push_back(
          {at + "attn." + name + "_conv1d.weight", {hidden, 1, 4}});
    }
    tensors.push_back({at + "attn.A_log", {shape.heads}, Fill::kDecay});
    tensors.push_back({at + "attn.dt_bias", {shape.heads}, Fill::kTimeStep});
    tensors.push_back({at + "attn.o_norm.weight", {head_dim}, Fill::kOnes});
    tensors.push_back({at + "mlp.gate_proj.weight", {inner, hidden}});
    tensors.push_back({at + "mlp.up_proj.weight", {inner, hidden}});
    tensors.push_back({at + "mlp.down_proj.weight", {hidden, inner}});
  }
  return WriteFolder(folder, config, tensors, seed);
}

absl::Status WriteMamba2(const Mamba2Shape& shape,
                         uint64_t seed,
                         const std::filesystem::path& folder) {
  constexpr int64_t kHeadDim = 64;
  constexpr int64_t kState = 128;
  const int64_t hidden = shape.hidden;
  const int64_t inner = 2 * hidden;
  const int64_t heads = inner / kHeadDim;
  const int64_t channels = inner + 2 * kState;
  const nlohmann::json config = {{"model_type", "mamba2"},
                                 {"architectures", {"Mamba2ForCausalLM"}},
                                 {"hidden_size", hidden},
                                 {"num_hidden_layers", shape.layers},
                                 {"num_heads", heads},
                                 {"head_dim", kHeadDim},
                                 {"state_size", kState},
                                 {"n_groups", 1},
                                 {"expand", 2},
                                 {"conv_kernel", 4},
                                 {"chunk_size", 256},
                                 {"layer_norm_epsilon", 1e-5},
                                 {"use_bias", false},
                                 {"use_conv_bias", true},
                                 {"hidden_act", "silu"},
                                 {"residual_in_fp32", true},
                                 {"tie_word_embeddings", true},
                                 {"vocab_size", kVocabulary},
                                 {"bos_token_id", 0},
                                 {"dtype", "float32"}};
  std::vector<Tensor> tensors = {
      {"backbone.embeddings.weight", {kVocabulary, hidden}},
      {"backbone.norm_f.weight", {hidden}, Fill::kOnes}};
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "backbone.layers." + std::to_string(layer) + ".";
    const std::string mixer = at + "mixer.";
    tensors.push_back({at + "norm.weight", {hidden}, Fill::kOnes});
    tensors.push_back(
        {mixer + "in_proj.weight", {2 * inner + 2 * kState + heads, hidden}});
    tensors.push_back({mixer + "conv1d.weight", {channels, 1, 4}});
    tensors.push_back({mixer + "conv1d.bias", {channels}});
    tensors.push_back({mixer + "dt_bias", {heads}, Fill::kTimeStep});
    tensors.push_back({mixer + "A_log", {heads}, Fill::kDecay});
    tensors.push_back({mixer + "D", {heads}, Fill::kOnes});
    tensors.push_back({mixer + "norm.weight", {inner}, Fill::kOnes});
    tensors.push_back({mixer + "out_proj.weight", {hidden, inner}});
  }
  return WriteFolder(folder, config, tensors, seed);
}

}  // namespace weir::bench
