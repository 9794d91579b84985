// SPDX-License-Identifier: Apache-2.0
#include "bench/recurrent_calls.h"

#include <mutex>

#include "engine/kernels/kernel_target.h"
#include "engine/mixers/parallel.h"

namespace weir::bench {
namespace {

using engine::DecayKind;
using engine::KernelTable;
using engine::RecurrenceArgs;
using engine::RunningSumArgs;
using engine::SelectiveScanArgs;
using engine::WkvArgs;

// The table of kernels is a table of plain functions, so what they note lies
// here.
struct Noted {
  KernelTable best;    // the machine's
  KernelTable noting;  // the same, but for those below
  std::mutex mutex;
  std::vector<RecurrentCall> calls;  // guarded by mutex
};

Noted& Notes() {
  static Noted noted = {engine::Kernels(), engine::Kernels(), {}, {}};
  return noted;
}

// A loop cut over threads calls once with the first item.
template <typename Args>
void Note(Args args, int64_t begin, bool chunked) {
  if (begin != 0) return;
  const auto rows = std::make_shared<std::vector<int32_t>>();
  rows->insert(rows->end(), args.row_starts, args.row_starts + args.rows + 1);
  rows->insert(rows->end(), args.slots, args.slots + args.rows);
  args.row_starts = rows->data();
  args.slots = rows->data() + args.rows + 1;
  Noted& noted = Notes();
  const std::lock_guard lock(noted.mutex);
  noted.calls.push_back({args, chunked, rows});
}

void Recurrent(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  Note(args, begin, false);
  Notes().best.recurrent(args, begin, end);
}

void Chunk(const RecurrenceArgs& args,
           int64_t begin,
           int64_t end,
           float* scratch) {
  Note(args, begin, true);
  Notes().best.chunk(args, begin, end, scratch);
}

void RunningSum(const RunningSumArgs& args, int64_t begin, int64_t end) {
  Note(args, begin, false);
  Notes().best.running_sum(args, begin, end);
}

void Scan(const SelectiveScanArgs& args, int64_t begin, int64_t end) {
  Note(args, begin, false);
  Notes().best.selective_scan(args, begin, end);
}

void Wkv(const WkvArgs& args, int64_t begin, int64_t end) {
  Note(args, begin, false);
  Notes().best.wkv(args, begin, end);
}

int64_t StateFloats(const RecurrenceArgs& args) {
  const int64_t parts = args.rest == nullptr ? 1 : 2;
  return parts * args.rows * args.heads * args.key_dim * args.value_dim;
}
int64_t StateFloats(const RunningSumArgs& args) {
  return int64_t{2} * args.rows * args.heads * args.dim;
}
int64_t StateFloats(const SelectiveScanArgs& args) {
  return int64_t{args.rows} * args.channels * args.states;
}
int64_t StateFloats(const WkvArgs& args) {
  return int64_t{args.rows} * args.channels * (engine::kWkvSums + 1);
}

// Costs are those of engine/mixers/: the loops shall be cut as there.
void Run(const RecurrenceArgs& args, bool chunked) {
  engine::ParallelFor(int64_t{args.rows} * args.heads,
                      int64_t{args.key_dim} * args.value_dim,
                      [&](int64_t begin, int64_t end) {
                        if (chunked)
                          return engine::RecurrenceChunk(args, begin, end);
                        engine::RecurrenceRecurrent(args, begin, end);
                      });
}
void Run(const RunningSumArgs& args, bool) {
  engine::ParallelFor(int64_t{args.rows} * args.heads,
                      int64_t{4} * args.dim,
                      [&](int64_t begin, int64_t end) {
                        engine::RunningSum(args, begin, end);
                      });
}
void Run(const SelectiveScanArgs& args, bool) {
  engine::ParallelFor(args.rows * engine::ScanBlocks(args.channels),
                      int64_t{10} * args.states * engine::kScanBlock,
                      [&](int64_t begin, int64_t end) {
                        engine::SelectiveScan(args, begin, end);
                      });
}
void Run(const WkvArgs& args, bool) {
  engine::ParallelFor(
      args.rows * engine::WkvBlocks(args.channels),
      int64_t{32} * engine::kWkvBlock,
      [&](int64_t begin, int64_t end) { engine::Wkv(args, begin, end); });
}

}  // namespace

int64_t RecurrentCall::state_bytes() const {
  return std::visit([](const auto& a) { return 4 * StateFloats(a); }, args);
}

int64_t RecurrentCall::chunk_flops() const {
  const auto* a = std::get_if<RecurrenceArgs>(&args);
  if (a == nullptr) return 0;
  const int64_t chunk = a->decay == DecayKind::kHead ? 64 : 16;
  const int64_t key = a->key_dim;
  const int64_t value = a->value_dim;
  int64_t fmas = chunk * (key + value) + 2 * key * value;
  if (a->b.data != nullptr) {
    fmas = 4 * chunk * key + 3 * chunk * value + 4 * key * value;
  } else if (a->a.data != nullptr || a->beta.data != nullptr) {
    fmas = 2 * chunk * (key + value) + 3 * key * value;
  }
  const int64_t tokens = a->row_starts[a->rows] - a->row_starts[0];
  return 2 * a->heads * fmas * tokens;
}

void RecurrentCall::Repeat() const {
  std::visit([this](const auto& a) { Run(a, chunked); }, args);
}

RecurrentCalls::RecurrentCalls() {
  Noted& noted = Notes();
  noted.calls.clear();
  noted.noting.recurrent = Recurrent;
  noted.noting.chunk = Chunk;
  noted.noting.running_sum = RunningSum;
  noted.noting.selective_scan = Scan;
  noted.noting.wkv = Wkv;
  engine::ForceKernelTable(&noted.noting);
}

RecurrentCalls::~RecurrentCalls() { engine::ForceKernelTable(nullptr); }

std::vector<RecurrentCall> RecurrentCalls::calls() const {
  return Notes().calls;
}

}  // namespace weir::bench
