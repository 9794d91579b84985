// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/status_macros.h"

namespace weir::engine {
namespace {

// Logits held at once: as many rows as fit these bytes, within these bounds.
constexpr int64_t kLogitsBytes = int64_t{256} << 20;
constexpr int64_t kBlockRowsMin = 8;
constexpr int64_t kBlockRowsMax = 1024;

int64_t BlockRows(int64_t vocabulary) {
  const int64_t rows =
      kLogitsBytes / (vocabulary * static_cast<int64_t>(sizeof(float)));
  return std::clamp(
      rows / kBlockRowsMin * kBlockRowsMin, kBlockRowsMin, kBlockRowsMax);
}

// Numbers of rows that steps are captured for: few pad much.
std::vector<int32_t> CapturedRows(int32_t most) {
  std::vector<int32_t> rows;
  for (int32_t n = 1; n <= most;) {
    rows.push_back(n);
    n += n < 4 ? 1 : n < 64 ? 4 : n < 128 ? 16 : n < 256 ? 32 : 64;
  }
  if (rows.empty() || rows.back() < most) rows.push_back(most);
  return rows;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceStep>> DeviceStep::Create(
    DeviceModel* model,
    DevicePool* pool,
    cudaStream_t stream,
    const Options& options) {
  std::unique_ptr<DeviceStep> step(
      new DeviceStep(model, pool, stream, options));
  WEIR_RETURN_IF_ERROR(step->TakeMemory());
  WEIR_RETURN_IF_ERROR(step->WarmUp());
  if (options.graph_rows_max > 0) {
    WEIR_RETURN_IF_ERROR(step->CaptureAll());
  }
  return step;
}

DeviceStep::DeviceStep(DeviceModel* model,
                       DevicePool* pool,
                       cudaStream_t stream,
                       const Options& options)
    : model_(*model),
      pool_(*pool),
      stream_(stream),
      options_(options),
      block_rows_(BlockRows(model->vocabulary())) {}

DeviceStep::~DeviceStep() {
  for (const auto& [shape, graph] : graphs_) cudaGraphExecDestroy(graph);
}

DeviceStep::Sizes DeviceStep::SizesOf(const DeviceModel& model,
                                      const Options& options) {
  constexpr int64_t kFloat = sizeof(float);
  constexpr int64_t kPadding = 1 << 12;
  const int64_t rows =
      std::max(options.rows_max, options.graph_rows_max) + int64_t{1};
  const int64_t tokens = options.tokens_max + rows;
  const int64_t passes = options.tokens_max / options.pass_tokens_max + 2;
  const int64_t block = PaddedTokens(BlockRows(model.vocabulary()));
  // Of a row: whether it is unfit, and what was drawn.
  return {.plan = StagingBytes(rows, tokens, passes),
          .results = rows * 4 * kFloat + tokens * kFloat + kPadding,
          .gathered = block * model.hidden() * NumberBytes(model.number()),
          .logits = block * model.vocabulary() * kFloat};
}

int64_t DeviceStep::DeviceBytes(const DeviceModel& model,
                                const Options& options) {
  const Sizes sizes = SizesOf(model, options);
  return sizes.plan + sizes.results + sizes.gathered + sizes.logits;
}

absl::Status DeviceStep::TakeMemory() {
  constexpr char kLogits[] = "logits";
  const Sizes sizes = SizesOf(model_, options_);
  WEIR_ASSIGN_OR_RETURN(plan_memory_,
                        Staging::Create(sizes.plan, "the plan of a step"));
  WEIR_ASSIGN_OR_RETURN(
      result_memory_, Staging::Create(sizes.results, "the results of a step"));
  WEIR_ASSIGN_OR_RETURN(gathered_, DeviceMemory::Take(sizes.gathered, kLogits));
  WEIR_ASSIGN_OR_RETURN(logits_, DeviceMemory::Take(sizes.logits, kLogits));
  planner_ = std::make_unique<StepPlanner>(
      &pool_, &plan_memory_, options_.pass_tokens_max);
  // It was cleared on the default stream.
  WEIR_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceSynchronize(), "the step's memory"));
  return absl::OkStatus();
}

absl::Status DeviceStep::WarmUp() {
  // Every number of tokens that a product is padded to, in one row; then in
  // rows as short as those that go in chunks.
  for (int64_t tokens = 1;; tokens = PaddedTokens(tokens) + 1) {
    const int64_t padded =
        std::min(PaddedTokens(tokens), options_.pass_tokens_max);
    WEIR_RETURN_IF_ERROR(RunPadding(1, padded));
    if (padded == options_.pass_tokens_max) break;
  }
  const int64_t rows =
      std::max<int64_t>(1, options_.pass_tokens_max / (2 * kShortRowTokensMax));
  WEIR_RETURN_IF_ERROR(RunPadding(std::min<int64_t>(rows, options_.rows_max),
                                  options_.pass_tokens_max));
  for (int64_t count = 1; count <= block_rows_;
       count = PaddedTokens(count) + 1) {
    WEIR_RETURN_IF_ERROR(
        model_.Logits(gathered_.data(), count, logits_.as<float>(), stream_));
  }
  return CudaStatus(cudaStreamSynchronize(stream_), "logits of padding");
}

absl::Status DeviceStep::RunPadding(int64_t rows, int64_t tokens) {
  planner_->PlanPadding(rows, tokens, plan_);
  TakeResults(1, 0, 0);
  WEIR_RETURN_IF_ERROR(plan_memory_.ToDevice(stream_));
  WEIR_RETURN_IF_ERROR(RunPlan());
  return CudaStatus(cudaStreamSynchronize(stream_), "a pass of padding");
}

absl::Status DeviceStep::CaptureAll() {
  const auto most = static_cast<int32_t>(
      std::min<int64_t>(options_.graph_rows_max, options_.pass_tokens_max));
  for (const int32_t rows : CapturedRows(most)) {
    for (const auto& [scores, draws] : {std::pair(false, true),
                                        {true, false},
                                        {true, true},
                                        {false, false}}) {
      WEIR_RETURN_IF_ERROR(
          Capture({.rows = rows, .scores = scores, .draws = draws}));
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceStep::Capture(const Shape& shape) {
  planner_->PlanDecode({}, shape.rows, shape.scores, shape.draws, plan_);
  TakeResults(
      shape.rows, shape.scores ? shape.rows : 0, shape.draws ? shape.rows : 0);
  // Once as it is: the libraries load what they need, which no capture may.
  WEIR_RETURN_IF_ERROR(plan_memory_.ToDevice(stream_));
  WEIR_RETURN_IF_ERROR(RunPlan());
  WEIR_RETURN_IF_ERROR(
      CudaStatus(cudaStreamSynchronize(stream_), "a step of padding"));
  WEIR_RETURN_IF_ERROR(CudaStatus(
      cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
      "a capture"));
  const absl::Status run = RunPlan();
  cudaGraph_t graph = nullptr;
  const absl::Status end =
      CudaStatus(cudaStreamEndCapture(stream_, &graph), "a capture's end");
  if (!run.ok() || !end.ok()) {
    if (graph != nullptr) cudaGraphDestroy(graph);
    return run.ok() ? end : run;
  }
  cudaGraphExec_t captured = nullptr;
  const absl::Status made =
      CudaStatus(cudaGraphInstantiate(&captured, graph, 0), "a captured step");
  cudaGraphDestroy(graph);
  WEIR_RETURN_IF_ERROR(made);
  graphs_[shape] = captured;
  return CudaStatus(cudaGraphUpload(captured, stream_), "a captured step");
}

const DeviceStep::Shape* DeviceStep::ShapeFor(std::span<const Row> rows) const {
  Shape wanted;
  bool any_tokens = false;
  for (const Row& row : rows) {
    if (row.tokens.size() > 1) return nullptr;
    any_tokens |= !row.tokens.empty();
    wanted.scores |= row.want_scores && !row.tokens.empty() && !row.first;
    wanted.draws |= row.sample.has_value();
  }
  if (!any_tokens) return nullptr;
  wanted.rows = static_cast<int32_t>(rows.size());
  // In the order of rows first: the first with the same results that is wide
  // enough.
  for (auto at = graphs_.lower_bound({.rows = wanted.rows});
       at != graphs_.end();
       ++at) {
    if (at->first.scores == wanted.scores && at->first.draws == wanted.draws) {
      return &at->first;
    }
  }
  return nullptr;
}

void DeviceStep::TakeResults(int64_t rows, int64_t scores, int64_t draws) {
  result_memory_.Clear();
  results_.unfit = result_memory_.Take<uint32_t>(rows);
  results_.scores = result_memory_.Take<float>(scores);
  results_.tokens = result_memory_.Take<uint32_t>(draws);
  results_.log_probs = result_memory_.Take<float>(draws);
  results_.finite = result_memory_.Take<uint32_t>(draws);
}

absl::Status DeviceStep::Start(std::span<const Row> rows) {
  rows_ = rows;
  const Shape* shape = ShapeFor(rows);
  if (shape != nullptr) {
    planner_->PlanDecode(rows, shape->rows, shape->scores, shape->draws, plan_);
    TakeResults(shape->rows,
                shape->scores ? shape->rows : 0,
                shape->draws ? shape->rows : 0);
  } else {
    planner_->Plan(rows, plan_);
    TakeResults(
        std::ssize(rows), std::ssize(plan_.wanted), std::ssize(plan_.drawing));
  }
  WEIR_RETURN_IF_ERROR(plan_memory_.ToDevice(stream_));
  if (shape != nullptr) {
    WEIR_RETURN_IF_ERROR(CudaStatus(
        cudaGraphLaunch(graphs_.at(*shape), stream_), "a captured step"));
  } else {
    WEIR_RETURN_IF_ERROR(RunPlan());
  }
  return result_memory_.ToHost(stream_);
}

absl::StatusOr<StepResult> DeviceStep::Finish() {
  WEIR_RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_), "a step"));
  return Collect();
}

absl::Status DeviceStep::RunPlan() {
  WEIR_RETURN_IF_ERROR(
      CudaStatus(cudaMemsetAsync(results_.unfit.device,
                                 0,
                                 results_.unfit.count * sizeof(uint32_t),
                                 stream_),
                 "the results' clearing"));
  int64_t score = 0;
  for (const PassPlan& pass : plan_.passes) {
    WEIR_RETURN_IF_ERROR(RunPass(pass, score));
    score += pass.sources.count;
  }
  return RunDraws(plan_.draws);
}

absl::Status DeviceStep::RunPass(const PassPlan& pass, int64_t first_score) {
  WEIR_ASSIGN_OR_RETURN(
      const void* outputs,
      model_.Forward(pass.batch, pass.tokens.device, pool_, stream_));
  // The slots still hold the output rows from before this pass.
  WEIR_RETURN_IF_ERROR(ScorePass(pass, outputs, first_score));
  return CudaStatus(KeepOutputs({.rows_of_slots = model_.OutputsOf(pool_),
                                 .rows = pass.batch.rows,
                                 .slots = pass.slots.device,
                                 .last = pass.last.device,
                                 .plan_rows = pass.plan_rows.device,
                                 .outputs = outputs,
                                 .unfit = results_.unfit.device},
                                stream_),
                    "the outputs' keeping");
}

absl::Status DeviceStep::ScorePass(const PassPlan& pass,
                                   const void* outputs,
                                   int64_t first_score) {
  for (int64_t begin = 0; begin < pass.sources.count; begin += block_rows_) {
    const int64_t count = std::min(block_rows_, pass.sources.count - begin);
    WEIR_RETURN_IF_ERROR(
        CudaStatus(GatherOutputs({.rows_of_slots = model_.OutputsOf(pool_),
                                  .count = static_cast<int32_t>(count),
                                  .sources = pass.sources.device + begin,
                                  .outputs = outputs,
                                  .out = gathered_.data()},
                                 stream_),
                   "the outputs' gathering"));
    WEIR_RETURN_IF_ERROR(
        model_.Logits(gathered_.data(), count, logits_.as<float>(), stream_));
    WEIR_RETURN_IF_ERROR(CudaStatus(
        TokenScores({.rows = count,
                     .vocabulary = model_.vocabulary(),
                     .logits = logits_.as<float>(),
                     .stride = model_.vocabulary(),
                     .targets = pass.targets.device + begin,
                     .scores = results_.scores.device + first_score + begin},
                    stream_),
        "scores"));
  }
  return absl::OkStatus();
}

absl::Status DeviceStep::RunDraws(const DrawPlan& draws) {
  for (int64_t begin = 0; begin < draws.rows.count; begin += block_rows_) {
    const int64_t count = std::min(block_rows_, draws.rows.count - begin);
    WEIR_RETURN_IF_ERROR(
        CudaStatus(GatherOutputs({.rows_of_slots = model_.OutputsOf(pool_),
                                  .count = static_cast<int32_t>(count),
                                  .sources = draws.sources.device + begin,
                                  .out = gathered_.data()},
                                 stream_),
                   "the outputs' gathering"));
    WEIR_RETURN_IF_ERROR(
        model_.Logits(gathered_.data(), count, logits_.as<float>(), stream_));
    WEIR_RETURN_IF_ERROR(
        CudaStatus(DrawTokens({.rows = static_cast<int32_t>(count),
                               .vocabulary = model_.vocabulary(),
                               .logits = logits_.as<float>(),
                               .stride = model_.vocabulary(),
                               .parameters = draws.rows.device + begin,
                               .recent = draws.recent.device,
                               .tokens = results_.tokens.device + begin,
                               .log_probs = results_.log_probs.device + begin,
                               .finite = results_.finite.device + begin},
                              stream_),
                   "draws"));
  }
  return absl::OkStatus();
}

StepResult DeviceStep::Collect() const {
  StepResult result;
  result.rows.resize(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    RowResult& row = result.rows[i];
    row.finite = results_.unfit.host[i] == 0;
    if (rows_[i].want_scores) {
      row.scores.resize(rows_[i].tokens.size(),
                        std::numeric_limits<float>::quiet_NaN());
    }
  }
  for (size_t i = 0; i < plan_.wanted.size(); ++i) {
    const WantedScore& wanted = plan_.wanted[i];
    RowResult& row = result.rows[wanted.row];
    row.scores[wanted.index] = results_.scores.host[i];
    if (std::isnan(results_.scores.host[i])) row.finite = false;
  }
  for (size_t i = 0; i < plan_.drawing.size(); ++i) {
    RowResult& row = result.rows[plan_.drawing[i]];
    if (results_.finite.host[i] == 0) {
      row.finite = false;
      continue;
    }
    row.sampled = Sampled{.token = results_.tokens.host[i],
                          .log_prob = results_.log_probs.host[i]};
  }
  return result;
}

}  // namespace weir::engine
