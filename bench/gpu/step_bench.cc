// SPDX-License-Identifier: Apache-2.0
//
// Whole steps of a model on a GPU, in process, through the engine's own door:
// prints JSON, name -> number.
//
//   weir-gpu-step-bench FOLDER [PART...]
//
// FOLDER: of a model, as make_model.py writes it. PART: decode, prefill,
// append, resident; none: all.
//
// Decode draws a token for each session and feeds it in the next step, as
// generation does; prefill and appends take no scores.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/gpu/figures.h"
#include "engine/cuda_engine.h"

namespace weir::bench {
namespace {

using engine::CudaEngineOptions;
using engine::Engine;
using engine::Plan;
using engine::RestNumber;
using engine::Row;
using engine::StepResult;
using Clock = std::chrono::steady_clock;

constexpr int64_t kCardBytes = int64_t{80} * 1000 * 1000 * 1000;
constexpr int64_t kStepTokens = 8192;

gpu::Figures results;

double Seconds(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

double Median(std::vector<double> times) {
  std::nth_element(
      times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(value);
}

std::vector<uint32_t> RandomTokens(const Engine& engine, size_t count) {
  std::mt19937_64 random(20261201);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) {
    token = static_cast<uint32_t>(random() % engine.model().vocabulary);
  }
  return tokens;
}

StepResult Run(Engine& engine, const Plan& plan) {
  StepResult result = Must(engine.Wait(Must(engine.Submit(plan))));
  for (const engine::RowResult& row : result.rows) {
    if (!row.finite) {
      std::fprintf(stderr, "a state is not finite\n");
      std::exit(1);
    }
  }
  return result;
}

// Feeds `tokens` to one slot in steps of at most kStepTokens.
void Feed(Engine& engine,
          int32_t slot,
          std::span<const uint32_t> tokens,
          bool first) {
  while (!tokens.empty()) {
    Row row;
    row.slot = slot;
    row.tokens = tokens.first(std::min<size_t>(tokens.size(), kStepTokens));
    row.first = first;
    tokens = tokens.subspan(row.tokens.size());
    Run(engine, {.rows = {row}});
    first = false;
  }
}

// Tokens a second of `sessions` that generate together, the median step's.
// Each of `places` neighbouring sessions begins a step after the one before, so
// that the ring form's folds do not all fall on one step.
double DecodeRate(Engine& engine, size_t sessions, int steps, size_t places) {
  std::vector<int32_t> slots;
  std::vector<uint32_t> hand(sessions);
  std::vector<uint64_t> fed(sessions, 0);
  const std::vector<uint32_t> tokens = RandomTokens(engine, sessions + 8);
  for (size_t i = 0; i < sessions; ++i) {
    slots.push_back(Must(engine.AcquireSlot()));
    hand[i] = tokens[i];
  }
  std::vector<double> times;
  const auto apart = static_cast<int>(places) - 1;
  for (int step = -apart; step < steps; ++step) {
    Plan plan;
    std::vector<size_t> stepped;
    for (size_t i = 0; i < sessions; ++i) {
      if (static_cast<int>(i % places) + step < 0) continue;
      Row row;
      row.slot = slots[i];
      row.tokens = std::span(hand).subspan(i, 1);
      row.first = fed[i] == 0;
      row.sample.emplace();
      row.sample->seed = i;
      row.sample->position = ++fed[i];
      plan.rows.push_back(row);
      stepped.push_back(i);
    }
    if (stepped.empty()) continue;
    const Clock::time_point begin = Clock::now();
    const StepResult result = Run(engine, plan);
    if (step >= 0) times.push_back(Seconds(begin));
    for (size_t i = 0; i < stepped.size(); ++i) {
      hand[stepped[i]] = result.rows[i].sampled->token;
    }
  }
  times.erase(times.begin(), times.begin() + steps / 5);
  for (const int32_t slot : slots) engine.ReleaseSlot(slot);
  return static_cast<double>(sessions) / Median(times);
}

void BenchDecode(Engine& engine) {
  for (const size_t sessions : {1, 4, 16, 64, 128, 256, 512}) {
    results["e2e_decode_b" + std::to_string(sessions) + "_tok_s"] =
        DecodeRate(engine, sessions, sessions == 1 ? 200 : 40, 1);
  }
}

void BenchRing(const std::string& folder) {
  CudaEngineOptions options;
  options.model_dir = folder;
  options.state_form = engine::StateForm::kRing;
  options.slots = 520;
  auto engine = Must(CreateCudaEngine(options));
  constexpr size_t kPlaces = 16;
  for (const size_t sessions : {1, 16, 64, 128, 256, 512}) {
    results["e2e_decode_b" + std::to_string(sessions) + "_ring_tok_s"] =
        DecodeRate(*engine, sessions, 40, kPlaces);
  }
}

// Of states that rest otherwise than in fp32, written every step.
void BenchForm(CudaEngineOptions options, const std::string& name) {
  constexpr size_t kSessions = 256;
  options.slots = kSessions;
  const auto engine = Must(CreateCudaEngine(options));
  results["e2e_decode_b256_" + name + "_tok_s"] =
      DecodeRate(*engine, kSessions, 40, 1);
}

void BenchPrefill(Engine& engine) {
  const std::vector<uint32_t> tokens = RandomTokens(engine, 65'536);
  std::vector<double> rates;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const int32_t slot = Must(engine.AcquireSlot());
    const Clock::time_point begin = Clock::now();
    Feed(engine, slot, tokens, true);
    rates.push_back(static_cast<double>(tokens.size()) / Seconds(begin));
    engine.ReleaseSlot(slot);
  }
  results["e2e_prefill_tok_s"] = Median(rates);

  std::vector<int32_t> slots;
  Plan plan;
  for (size_t i = 0; i < 8; ++i) {
    slots.push_back(Must(engine.AcquireSlot()));
    Row row;
    row.slot = slots[i];
    row.tokens = std::span(tokens).subspan(i * 1024, 1024);
    row.first = true;
    plan.rows.push_back(row);
  }
  rates.clear();
  for (int repeat = 0; repeat < 5; ++repeat) {
    const Clock::time_point begin = Clock::now();
    Run(engine, plan);
    rates.push_back(8192 / Seconds(begin));
    for (Row& row : plan.rows) row.first = false;
  }
  results["e2e_prefill_8x1024_tok_s"] = Median(rates);
  for (const int32_t slot : slots) engine.ReleaseSlot(slot);
}

// An append of 256 tokens far along against one near the beginning, in turn.
void BenchFlatness(Engine& engine) {
  constexpr size_t kAppend = 256;
  constexpr size_t kFar = 1'000'000;
  const std::vector<uint32_t> tokens = RandomTokens(engine, 65'536);
  const int32_t near = Must(engine.AcquireSlot());
  const int32_t far = Must(engine.AcquireSlot());
  Feed(engine, near, std::span(tokens).first(1000), true);
  for (size_t fed = 0; fed < kFar;) {
    const size_t count = std::min(tokens.size(), kFar - fed);
    Feed(engine, far, std::span(tokens).first(count), fed == 0);
    fed += count;
  }
  std::vector<double> times[2];
  for (int turn = 0; turn < 60; ++turn) {
    const int32_t slot = turn % 2 == 0 ? near : far;
    const Clock::time_point begin = Clock::now();
    Feed(engine, slot, std::span(tokens).first(kAppend), false);
    if (turn >= 4) times[turn % 2].push_back(Seconds(begin));
  }
  results["append_256_at_1000_ms"] = 1e3 * Median(times[0]);
  results["append_256_at_1000000_ms"] = 1e3 * Median(times[1]);
  results["append_flatness"] = Median(times[1]) / Median(times[0]);
  engine.ReleaseSlot(near);
  engine.ReleaseSlot(far);
}

// As many sessions as a card of 80 GB holds beside the rest, each fed.
void BenchResident(const std::string& folder, int64_t beside_bytes) {
  CudaEngineOptions options;
  options.model_dir = folder;
  options.pool_bytes = kCardBytes - beside_bytes;
  auto engine = Must(CreateCudaEngine(options));
  const std::vector<uint32_t> tokens =
      RandomTokens(*engine, static_cast<size_t>(engine->slots()) + 64);
  std::vector<int32_t> slots;
  while (engine->slots_free() > 0) {
    slots.push_back(Must(engine->AcquireSlot()));
  }
  for (const bool first : {true, false}) {
    for (size_t begin = 0; begin < slots.size(); begin += 256) {
      Plan plan;
      const size_t end = std::min(begin + 256, slots.size());
      for (size_t i = begin; i < end; ++i) {
        Row row;
        row.slot = slots[i];
        row.tokens = std::span(tokens).subspan(i, first ? 17 : 1);
        row.first = first;
        row.want_scores = true;
        plan.rows.push_back(row);
      }
      Run(*engine, plan);
    }
  }
  size_t free_bytes = 0;
  size_t all_bytes = 0;
  cudaMemGetInfo(&free_bytes, &all_bytes);
  results["resident_used_bytes"] = static_cast<double>(all_bytes - free_bytes);
  if (static_cast<int64_t>(all_bytes - free_bytes) > kCardBytes) {
    std::fprintf(stderr, "more is in use than a card of 80 GB has\n");
    std::exit(1);
  }
  results["resident_sessions"] = static_cast<double>(slots.size());
  results["session_bytes"] = static_cast<double>(engine->model().slot_bytes);
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "weir-gpu-step-bench FOLDER [PART...]\n");
    return 2;
  }
  const std::span<char*> parts(argv + 2, argv + argc);
  const auto wanted = [&](std::string_view part) {
    return parts.empty() ||
           std::find(parts.begin(), parts.end(), part) != parts.end();
  };
  // Weights, workspace, captured steps and the library, as the card says below.
  constexpr int64_t kBeside = int64_t{6} * 1000 * 1000 * 1000;
  {
    CudaEngineOptions options;
    options.model_dir = argv[1];
    options.slots = 520;
    const Clock::time_point begin = Clock::now();
    auto engine = Must(CreateCudaEngine(options));
    results["e2e_start_s"] = Seconds(begin);
    if (wanted("decode")) BenchDecode(*engine);
    if (wanted("prefill")) BenchPrefill(*engine);
    if (wanted("append")) BenchFlatness(*engine);
  }
  if (wanted("decode")) {
    BenchForm({.model_dir = argv[1], .state = RestNumber::kBfloat16},
              "bf16_state");
  }
  if (wanted("ring")) BenchRing(argv[1]);
  if (wanted("resident")) BenchResident(argv[1], kBeside);
  gpu::Print(results);
  return 0;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) { return weir::bench::Main(argc, argv); }
