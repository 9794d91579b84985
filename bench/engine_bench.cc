// SPDX-License-Identifier: Apache-2.0
//
// Measures the engine alone, beside torch's own products over the same
// matrices, and prints one flat JSON object. Each pair is measured in turns,
// so that a slow moment of the machine meets both; medians are given.
//
//   weir-engine-bench --demo models/demo --scratch DIR --threads N [--only X]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "bench/random_model.h"
#include "bench/torch_rates.h"
#include "engine/torch_engine.h"

namespace weir::bench {
namespace {

constexpr int kTurns = 9;

struct Options {
  std::string demo = "models/demo";
  std::string scratch = "build/bench-models";
  int threads = 2;
  std::string only;
};

double Timed(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

double Median(std::vector<double> values) {
  std::nth_element(
      values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "weir-engine-bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

// An engine, its sessions' slots, and steps over them.
class Bed {
 public:
  Bed(const std::string& folder, const Options& options, int slots) {
    engine::TorchEngine::Options engine_options;
    engine_options.model_dir = folder;
    engine_options.slots = slots;
    engine_options.threads = options.threads;
    auto engine = engine::TorchEngine::Create(engine_options);
    Require(engine.status());
    engine_ = *std::move(engine);
    for (int i = 0; i < slots; ++i) NewSlot();
  }

  // Seconds of one step that feeds `tokens` tokens to each of `rows` sessions.
  double Step(int rows, int64_t tokens, bool scores) {
    std::vector<std::vector<uint32_t>> fed(rows);
    engine::Plan plan;
    for (int row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < tokens; ++i) {
        fed[row].push_back(static_cast<uint32_t>(random_() % 256));
      }
      engine::Row& planned = plan.rows.emplace_back();
      planned.slot = slots_[row];
      planned.tokens = fed[row];
      planned.first = first_[row];
      planned.want_scores = scores;
      first_[row] = false;
    }
    return Timed([&] {
      auto ticket = engine_->Submit(plan);
      Require(ticket.status());
      Require(engine_->Wait(*ticket).status());
    });
  }

  // Seconds to encode `tokens` tokens from an empty state, in steps of 512.
  double Encode(int64_t tokens) {
    engine_->ReleaseSlot(slots_[0]);
    auto slot = engine_->AcquireSlot();
    Require(slot.status());
    slots_[0] = *slot;
    first_[0] = true;
    double seconds = 0;
    for (int64_t done = 0; done < tokens; done += 512) {
      seconds += Step(1, std::min<int64_t>(512, tokens - done), false);
    }
    return seconds;
  }

  const engine::ModelInfo& model() const { return engine_->model(); }

 private:
  void NewSlot() {
    auto slot = engine_->AcquireSlot();
    Require(slot.status());
    slots_.push_back(*slot);
    first_.push_back(true);
  }

  std::unique_ptr<engine::Engine> engine_;
  std::vector<int32_t> slots_;
  std::vector<bool> first_;
  std::mt19937_64 random_{1};
};

std::vector<MatrixShape> Matrices(const DeltaNetShape& shape) {
  const int64_t hidden = shape.hidden;
  const int64_t inner = hidden * 11 / 4;
  std::vector<MatrixShape> matrices;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int i = 0; i < 5; ++i) matrices.push_back({hidden, hidden});
    matrices.push_back({inner, hidden});
    matrices.push_back({inner, hidden});
    matrices.push_back({hidden, inner});
  }
  return matrices;
}

// The large model's steps, each beside torch's products of the same rows.
void MeasureSteps(const Options& options, nlohmann::json& result) {
  const DeltaNetShape shape;
  Bed bed(options.scratch + "/delta_net", options, 16);
  TorchProducts products(Matrices(shape));
  result["large_parameters"] = bed.model().parameters;
  result["large_state_bytes"] = bed.model().state_bytes;
  struct Case {
    const char* name;
    int rows;
    int64_t tokens;
  };
  for (const Case& c : {Case{"decode_1", 1, 1},
                        Case{"decode_16", 16, 1},
                        Case{"stream_256", 1, 256}}) {
    std::vector<double> engine, torch, share;
    bed.Step(c.rows, c.tokens, false);
    products.Seconds(c.rows * c.tokens);
    for (int turn = 0; turn < kTurns; ++turn) {
      engine.push_back(bed.Step(c.rows, c.tokens, false));
      torch.push_back(products.Seconds(c.rows * c.tokens));
      share.push_back(torch.back() / engine.back());
    }
    const std::string name = c.name;
    const double tokens = static_cast<double>(c.rows * c.tokens);
    result[name + "_seconds"] = Median(engine);
    result[name + "_tokens_per_second"] = tokens / Median(engine);
    result[name + "_torch_seconds"] = Median(torch);
    result[name + "_share_of_torch"] = Median(share);
    result[name + "_torch_gbytes_per_second"] =
        static_cast<double>(products.bytes()) / Median(torch) * 1e-9;
    result[name + "_torch_gflops"] = static_cast<double>(products.bytes()) / 2 *
                                     tokens / Median(torch) * 1e-9;
  }
}

// The demo model: appends of 256 tokens with scores.
void MeasureAppend(const Options& options, nlohmann::json& result) {
  Bed bed(options.demo, options, 1);
  std::vector<double> seconds;
  bed.Step(1, 256, true);
  for (int turn = 0; turn < 400; ++turn) {
    seconds.push_back(bed.Step(1, 256, true));
  }
  result["demo_append_256_seconds"] = Median(seconds);
  result["demo_tokens_per_second"] = 256 / Median(seconds);
}

// What a server that keeps no state pays for an append: the whole document.
void MeasureReencoding(const Options& options, nlohmann::json& result) {
  Bed bed(options.demo, options, 1);
  for (int64_t thousands : {1, 2, 4, 8, 16, 32}) {
    std::vector<double> turns;
    for (int turn = 0; turn < 3; ++turn) {
      turns.push_back(bed.Encode(thousands * 1000));
    }
    result["reencode_" + std::to_string(thousands) + "k_seconds"] =
        Median(turns);
  }
}

void MeasureMamba2(const Options& options, nlohmann::json& result) {
  Bed bed(options.scratch + "/mamba2", options, 1);
  std::vector<double> prefill, decode;
  for (int turn = 0; turn < 4; ++turn) {
    prefill.push_back(bed.Encode(4096));
    for (int i = 0; i < 32; ++i) decode.push_back(bed.Step(1, 1, false));
  }
  result["mamba2_prefill_4096_seconds"] = Median(prefill);
  result["mamba2_decode_seconds"] = Median(decode);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Measures the engine beside torch's own products."};
  app.add_option("--demo", options.demo, "the demo model's folder");
  app.add_option("--scratch", options.scratch, "where random models go");
  app.add_option("--threads", options.threads, "threads of the engine");
  app.add_option("--only", options.only, "steps, append, reencode or mamba2");
  CLI11_PARSE(app, argc, argv);

  nlohmann::json result;
  const auto wanted = [&](const char* name) {
    return options.only.empty() || options.only == name;
  };
  if (wanted("steps")) {
    Require(WriteDeltaNet({}, 1, options.scratch + "/delta_net"));
  }
  if (wanted("mamba2")) {
    Require(WriteMamba2({}, 1, options.scratch + "/mamba2"));
  }
  if (wanted("steps")) MeasureSteps(options, result);
  if (wanted("append")) MeasureAppend(options, result);
  if (wanted("reencode")) MeasureReencoding(options, result);
  if (wanted("mamba2")) MeasureMamba2(options, result);
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace weir::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a measurement just ends.
int main(int argc, char** argv) { return weir::bench::Main(argc, argv); }
