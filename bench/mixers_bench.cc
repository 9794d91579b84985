// SPDX-License-Identifier: Apache-2.0
//
// Measures every mixer of the registry at one width and prints one flat JSON
// object. Each is measured in turns with its bound: the recurrent step with
// memcpy of as many bytes on as many threads, the prefill with torch's product
// of large matrices; medians are given.
//
//   weir-mixers-bench --mixers bench/mixers.json --threads N [--only NAME]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "bench/mixer_bed.h"
#include "bench/recurrent_calls.h"
#include "bench/torch_rates.h"
#include "engine/mixers/parallel.h"
#include "engine/mixers/registry.h"

namespace weir::bench {
namespace {

constexpr int kTurns = 7;
// Four times the largest cache that is met.
constexpr int64_t kStatesBytes = int64_t{1} << 30;
constexpr int64_t kPrefillTokens = 2048;
constexpr int32_t kTogether = 16;
// Of the product that says what a core can do.
constexpr int64_t kSide = 1024;

struct Options {
  std::string mixers = "bench/mixers.json";
  int threads = 2;
  std::string only;
};

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "weir-mixers-bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

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

// Two arrays on huge pages, as the states are.
class Copy {
 public:
  Copy() {
    Require(from_.Allocate());
    Require(to_.Allocate());
    // Pages that were never written are one page of zeros, which a cache holds.
    std::fill_n(from_.data(), kStatesBytes / 4, 1.0F);
    Seconds(kStatesBytes);
  }

  // Seconds to copy `bytes`, cut over the threads as the states are.
  double Seconds(int64_t bytes) {
    constexpr int64_t kPiece = 1 << 16;
    bytes = std::min(bytes, kStatesBytes);
    return Timed([&] {
      engine::ParallelFor(
          bytes / kPiece, kPiece, [&](int64_t begin, int64_t end) {
            std::memcpy(reinterpret_cast<char*>(to_.data()) + begin * kPiece,
                        reinterpret_cast<char*>(from_.data()) + begin * kPiece,
                        (end - begin) * kPiece);
          });
    });
  }

 private:
  engine::Buffer from_ = engine::Buffer(kStatesBytes / 4);
  engine::Buffer to_ = engine::Buffer(kStatesBytes / 4);
};

// One token for each of many sessions, the calls that touch their states alone.
void MeasureStep(MixerBed& bed,
                 Copy& copy,
                 const std::string& name,
                 nlohmann::json& result) {
  const auto rows = static_cast<int32_t>(kStatesBytes / bed.state_bytes());
  Require(bed.Hold(rows, rows));
  const RecurrentCalls noted;
  Require(bed.Forward(rows, 1));
  const std::vector<RecurrentCall> calls = noted.calls();
  int64_t bytes = 0;
  for (const RecurrentCall& call : calls) bytes += call.state_bytes();
  if (bytes == 0) Require(absl::InternalError(name + " touched no state"));
  const auto repeat = [&] {
    for (const RecurrentCall& call : calls) call.Repeat();
  };
  repeat();
  std::vector<double> share, seconds;
  for (int turn = 0; turn < kTurns; ++turn) {
    seconds.push_back(Timed(repeat));
    share.push_back(copy.Seconds(bytes) / seconds.back());
  }
  result[name + "_step_share_of_copy"] = Median(share);
  result[name + "_step_gbytes_per_second"] =
      2e-9 * static_cast<double>(bytes) / Median(seconds);
}

// A long row, beside torch's product.
// more_flops: of a token's products with weights that are no projections.
void MeasurePrefill(MixerBed& bed,
                    int64_t more_flops,
                    TorchProducts& product,
                    const std::string& name,
                    nlohmann::json& result) {
  Require(bed.Hold(1, kPrefillTokens));
  int64_t flops = 2 * bed.projection_weights() + more_flops;
  {
    const RecurrentCalls noted;
    Require(bed.Forward(1, kPrefillTokens));
    for (const RecurrentCall& call : noted.calls()) {
      flops += call.chunk_flops() / kPrefillTokens;
    }
  }
  constexpr double kProductFlops = 2.0 * kSide * kSide * kPrefillTokens;
  product.Seconds(kPrefillTokens);
  std::vector<double> share, seconds, rate;
  for (int turn = 0; turn < kTurns; ++turn) {
    seconds.push_back(Timed([&] { Require(bed.Forward(1, kPrefillTokens)); }));
    rate.push_back(kProductFlops / product.Seconds(kPrefillTokens));
    const double bound =
        static_cast<double>(flops) * kPrefillTokens / rate.back();
    share.push_back(bound / seconds.back());
  }
  result[name + "_token_flops"] = flops;
  result[name + "_prefill_share_of_gemm"] = Median(share);
  result[name + "_prefill_tokens_per_second"] =
      kPrefillTokens / Median(seconds);
  result[name + "_torch_gflops"] = 1e-9 * Median(rate);
}

// Steps of one token for a few sessions, the whole mixer.
void MeasureDecode(MixerBed& bed,
                   int32_t rows,
                   const std::string& name,
                   nlohmann::json& result) {
  constexpr int kSteps = 40;
  Require(bed.Hold(rows, rows));
  std::vector<double> seconds;
  Require(bed.Forward(rows, 1));
  for (int step = 0; step < kSteps; ++step) {
    seconds.push_back(Timed([&] { Require(bed.Forward(rows, 1)); }));
  }
  result[name + "_decode_" + std::to_string(rows) + "_tokens_per_second"] =
      rows / Median(seconds);
}

void Measure(const nlohmann::json& row,
             Copy& copy,
             TorchProducts& product,
             nlohmann::json& result) {
  const std::string mixer = row.at("name");
  const std::string name = "mixer_" + mixer;
  auto bed = MixerBed::Create(row.at("config").dump());
  if (!bed.ok()) {
    Require(absl::Status(bed.status().code(),
                         mixer + ": " + std::string(bed.status().message())));
  }
  result[name + "_state_bytes"] = (*bed)->state_bytes();
  result[name + "_projection_bytes"] = 4 * (*bed)->projection_weights();
  MeasureStep(**bed, copy, name, result);
  MeasurePrefill(
      **bed, row.value("more_flops", int64_t{0}), product, name, result);
  MeasureDecode(**bed, 1, name, result);
  MeasureDecode(**bed, kTogether, name, result);
}

// Every family of the registry must be among the rows.
void CheckComplete(const nlohmann::json& rows) {
  std::set<std::string> measured;
  for (const auto& row : rows) {
    for (const auto& family : row.at("model_types")) measured.insert(family);
  }
  for (const engine::Family& family : engine::Families()) {
    if (measured.count(family.model_type) == 0) {
      Require(absl::FailedPreconditionError(
          std::string("no row for model_type ") + family.model_type));
    }
  }
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Measures every mixer beside its bounds."};
  app.add_option("--mixers", options.mixers, "the mixers and their sizes");
  app.add_option("--threads", options.threads, "threads");
  app.add_option("--only", options.only, "one mixer's name");
  CLI11_PARSE(app, argc, argv);
  std::ifstream file(options.mixers);
  const auto rows =
      nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!rows.is_array()) {
    Require(absl::NotFoundError("no list of mixers in " + options.mixers));
  }
  CheckComplete(rows);
  SetTorchThreads(options.threads);
  Copy copy;
  TorchProducts product({{kSide, kSide}});
  nlohmann::json result;
  for (const auto& row : rows) {
    const bool wanted = options.only.empty() || options.only == row.at("name");
    if (wanted) Measure(row, copy, product, result);
  }
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace weir::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a measurement just ends.
int main(int argc, char** argv) { return weir::bench::Main(argc, argv); }
