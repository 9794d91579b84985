// SPDX-License-Identifier: Apache-2.0
//
// What the recurrence costs: one token for each of many states beyond the
// caches, beside the machine's copy rate; and the chunk form beside the
// recurrent one, by length of row.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/kernels/kernel_target.h"
#include "engine/kernels/recurrence.h"

namespace weir::engine {
namespace {

const int64_t kThreads = std::max(1U, std::thread::hardware_concurrency());
constexpr int64_t kStatesBytes = int64_t{1} << 30;

// body(begin, end) on each of kThreads equal parts of [0, count). The caller's
// thread takes the last: the library counts its time to choose the iterations.
void InParallel(int64_t count,
                const std::function<void(int64_t, int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < kThreads - 1; ++i) {
    threads.emplace_back(
        body, count * i / kThreads, count * (i + 1) / kThreads);
  }
  body(count * (kThreads - 1) / kThreads, count);
  for (std::thread& thread : threads) thread.join();
}

// A batch of equal rows with random contents.
struct Batch {
  Batch(int32_t rows, int32_t row_tokens, int32_t heads, int32_t dim)
      : heads(heads), dim(dim) {
    const int64_t tokens = int64_t{rows} * row_tokens;
    for (int32_t row = 0; row <= rows; ++row) {
      row_starts.push_back(row * row_tokens);
      slots.push_back(row);
    }
    slots.pop_back();
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::vector<float>* x : {&q, &k, &v}) {
      x->resize(tokens * heads * dim);
      const float scale = x == &v ? 1 : 1 / std::sqrt(static_cast<float>(dim));
      for (float& y : *x) y = scale * normal(random);
    }
    out.resize(v.size());
    log2_decay.assign(tokens * heads, -0.05F);
    beta.assign(tokens * heads, 0.5F);
    state.assign(int64_t{rows} * heads * dim * dim, 0.01F);
  }

  RecurrenceArgs Args(bool delta) {
    RecurrenceArgs args;
    args.rows = static_cast<int32_t>(slots.size());
    args.heads = args.key_heads = heads;
    args.key_dim = args.value_dim = dim;
    args.row_starts = row_starts.data();
    args.slots = slots.data();
    const int64_t stride = int64_t{heads} * dim;
    args.q = {q.data(), stride};
    args.k = {k.data(), stride};
    args.v = {v.data(), stride};
    args.log2_decay = {log2_decay.data(), heads};
    if (delta) args.beta = {beta.data(), heads};
    args.out = out.data();
    args.out_stride = stride;
    args.state = state.data();
    args.state_stride = stride * dim;
    return args;
  }

  int32_t heads;
  int32_t dim;
  std::vector<int32_t> row_starts, slots;
  std::vector<float> q, k, v, log2_decay, beta, out, state;
};

double SecondsOf(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  const std::chrono::duration<double> taken =
      std::chrono::steady_clock::now() - start;
  return taken.count();
}

// One token for each of many rows, in turns with memcpy of as many bytes, so
// that both meet the machine in the same mood. Bytes are those read and those
// written: the recurrent form does each once with every state.
void DecodeBesideCopy(benchmark::State& run, int32_t dim, bool delta) {
  constexpr int32_t kHeads = 8;
  const int64_t row_bytes = int64_t{kHeads} * dim * dim * 4;
  Batch batch(static_cast<int32_t>(kStatesBytes / row_bytes), 1, kHeads, dim);
  const RecurrenceArgs args = batch.Args(delta);
  std::vector<char> from(kStatesBytes, 1);
  std::vector<char> to(kStatesBytes, 2);
  double decode_seconds = 0;
  double copy_seconds = 0;
  for (auto _ : run) {
    decode_seconds += SecondsOf([&] {
      InParallel(int64_t{args.rows} * kHeads, [&](int64_t begin, int64_t end) {
        RecurrenceRecurrent(args, begin, end);
      });
    });
    copy_seconds += SecondsOf([&] {
      InParallel(kStatesBytes, [&](int64_t begin, int64_t end) {
        std::memcpy(to.data() + begin, from.data() + begin, end - begin);
      });
    });
    benchmark::ClobberMemory();
  }
  const double gbytes =
      2e-9 * static_cast<double>(kStatesBytes * run.iterations());
  run.counters["gbytes_per_second"] = gbytes / decode_seconds;
  run.counters["copy_gbytes_per_second"] = gbytes / copy_seconds;
  run.counters["share_of_copy"] = copy_seconds / decode_seconds;
}

// The shape of most Gated DeltaNets; the others are beside it.
void Recurrent(benchmark::State& run) { DecodeBesideCopy(run, 128, true); }

// Arguments: K = V, delta.
void Decode(benchmark::State& run) {
  DecodeBesideCopy(run, static_cast<int32_t>(run.range(0)), run.range(1) != 0);
}

// Arguments: K = V, delta, tokens. One thread, one row of 4 heads.
void RunRow(benchmark::State& run,
            void (*form)(const RecurrenceArgs&, int64_t, int64_t)) {
  constexpr int32_t kHeads = 4;
  const auto dim = static_cast<int32_t>(run.range(0));
  const auto tokens = static_cast<int32_t>(run.range(2));
  Batch batch(1, tokens, kHeads, dim);
  const RecurrenceArgs args = batch.Args(run.range(1) != 0);
  double seconds = 0;
  for (auto _ : run) {
    seconds += SecondsOf([&] { form(args, 0, kHeads); });
    benchmark::ClobberMemory();
  }
  // Of one head.
  const double token_heads =
      static_cast<double>(run.iterations()) * tokens * kHeads;
  run.counters["ns_per_token"] = 1e9 * seconds / token_heads;
}

void RecurrentRow(benchmark::State& run) { RunRow(run, RecurrenceRecurrent); }
void ChunkRow(benchmark::State& run) { RunRow(run, RecurrenceChunk); }

BENCHMARK(Recurrent)->Unit(benchmark::kMillisecond);
BENCHMARK(Decode)
    ->ArgNames({"dim", "delta"})
    ->ArgsProduct({{64, 128, 256}, {0, 1}})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(RecurrentRow)
    ->ArgNames({"dim", "delta", "tokens"})
    ->ArgsProduct({{64, 128, 256}, {0, 1}, {1, 16, 64, 256, 1024, 4096}})
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(ChunkRow)
    ->ArgNames({"dim", "delta", "tokens"})
    ->ArgsProduct({{64, 128, 256}, {0, 1}, {1, 16, 64, 256, 1024, 4096}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace weir::engine

// --kernel_target=NAME measures another target than the machine's best.
int main(int argc, char** argv) {
  const std::string flag = "--kernel_target=";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind(flag, 0) != 0) continue;
    if (!weir::engine::ForceKernelTarget(argument.substr(flag.size())))
      return 1;
    std::rotate(argv + i, argv + i + 1, argv + argc);
    --argc;
    break;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("kernel_target", weir::engine::CpuKernelTarget());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
