// SPDX-License-Identifier: Apache-2.0
//
// Gated DeltaNet's recurrent step beside ggml's operator of that name: one
// token for each of many sessions whose states lie beyond the caches, the same
// inputs and as many threads, in turns. Both must give the same outputs first.
// Prints one flat JSON object.
//
//   weir-ggml-bench --ggml FOLDER --threads N
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/ggml.h"
#include "bench/torch_rates.h"
#include "engine/kernels/kernel_target.h"
#include "engine/kernels/recurrence.h"
#include "engine/mixers/buffer.h"
#include "engine/mixers/parallel.h"

namespace weir::bench {
namespace {

constexpr int kTurns = 15;
constexpr DeltaShape kMany = {
    .dim = 128, .heads = 8, .tokens = 1, .rows = 1024};
constexpr DeltaShape kSame = {.dim = 128, .heads = 8, .tokens = 7, .rows = 2};
// Outputs of order one; both sum 128 products in fp32.
constexpr double kDifferenceMax = 1e-5;

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "weir-ggml-bench: %s\n", status.ToString().c_str());
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

// Random inputs of a shape, our states and our step.
class Ours {
 public:
  explicit Ours(const DeltaShape& shape)
      : shape_(shape),
        state_(shape.rows * shape.heads * shape.dim * shape.dim) {
    Require(state_.Allocate());
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform(0.0F, 1.0F);
    const auto tokens = shape.rows * shape.tokens;
    const auto length = std::sqrt(static_cast<float>(shape.dim));
    for (int64_t i = 0; i < tokens * shape.heads * shape.dim; ++i) {
      q_.push_back(normal(random));
      scaled_.push_back(q_.back() / length);
      k_.push_back(normal(random) / length);
      v_.push_back(normal(random));
    }
    for (int64_t i = 0; i < tokens * shape.heads; ++i) {
      log_decay_.push_back(-uniform(random));
      log2_decay_.push_back(log_decay_.back() * 1.44269504F);
      beta_.push_back(uniform(random));
    }
    for (int64_t row = 0; row <= shape.rows; ++row) {
      row_starts_.push_back(static_cast<int32_t>(row * shape.tokens));
      slots_.push_back(static_cast<int32_t>(row));
    }
    out_.resize(v_.size());
  }

  DeltaInputs inputs() const {
    return {.q = q_.data(),
            .k = k_.data(),
            .v = v_.data(),
            .log_decay = log_decay_.data(),
            .beta = beta_.data()};
  }

  const std::vector<float>& Step() {
    const int64_t stride = shape_.heads * shape_.dim;
    engine::RecurrenceArgs args;
    args.rows = static_cast<int32_t>(shape_.rows);
    args.heads = args.key_heads = static_cast<int32_t>(shape_.heads);
    args.key_dim = args.value_dim = static_cast<int32_t>(shape_.dim);
    args.row_starts = row_starts_.data();
    args.slots = slots_.data();
    args.q = {scaled_.data(), stride};
    args.k = {k_.data(), stride};
    args.v = {v_.data(), stride};
    args.log2_decay = {log2_decay_.data(), shape_.heads};
    args.beta = {beta_.data(), shape_.heads};
    args.out = out_.data();
    args.out_stride = stride;
    args.state = state_.data();
    args.state_stride = stride * shape_.dim;
    engine::ParallelFor(shape_.rows * shape_.heads,
                        shape_.dim * shape_.dim,
                        [&](int64_t begin, int64_t end) {
                          engine::RecurrenceRecurrent(args, begin, end);
                        });
    return out_;
  }

 private:
  const DeltaShape shape_;
  engine::Buffer state_;
  std::vector<float> q_, scaled_, k_, v_, log_decay_, log2_decay_, beta_, out_;
  std::vector<int32_t> row_starts_, slots_;
};

double WorstDifference(const std::string& folder, int threads) {
  Ours ours(kSame);
  auto ggml = GgmlDeltaNet::Create(folder, kSame, ours.inputs());
  Require(ggml.status());
  const auto theirs = (*ggml)->Step(threads);
  Require(theirs.status());
  const std::vector<float>& out = ours.Step();
  double worst = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double difference = std::abs(double{out[i]} - (*theirs)[i]);
    // Not std::max, which a NaN would pass through.
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

int Main(int argc, char** argv) {
  std::string folder = ".deps/ggml";
  int threads = 2;
  CLI::App app{"Measures Gated DeltaNet's step beside ggml's."};
  app.add_option("--ggml", folder, "where libggml-base.so lies");
  app.add_option("--threads", threads, "threads of both");
  CLI11_PARSE(app, argc, argv);
  SetTorchThreads(threads);

  const double worst = WorstDifference(folder, threads);
  if (!(worst <= kDifferenceMax)) {
    Require(absl::InternalError("outputs part by " + std::to_string(worst)));
  }
  Ours ours(kMany);
  auto ggml = GgmlDeltaNet::Create(folder, kMany, ours.inputs());
  Require(ggml.status());
  const auto theirs = [&] { Require((*ggml)->Step(threads).status()); };
  theirs();
  nlohmann::json result = {{"ggml_version", (*ggml)->version()},
                           {"ggml_has_avx512", (*ggml)->has_avx512()},
                           {"ggml_worst_difference", worst}};
  // With the machine's best instructions, and with ggml's.
  for (const char* target : {"", "avx2"}) {
    const std::string name =
        *target == '\0' ? "ggml_gdn_step" : "ggml_gdn_step_avx2";
    if (!engine::ForceKernelTarget(target)) continue;
    ours.Step();
    std::vector<double> times, own, other;
    for (int turn = 0; turn < kTurns; ++turn) {
      own.push_back(Timed([&] { ours.Step(); }));
      other.push_back(Timed(theirs));
      times.push_back(other.back() / own.back());
    }
    result[name + "_times"] = Median(times);
    result[name + "_seconds"] = Median(own);
    result[name + "_ggml_seconds"] = Median(other);
  }
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace weir::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a measurement just ends.
int main(int argc, char** argv) { return weir::bench::Main(argc, argv); }
