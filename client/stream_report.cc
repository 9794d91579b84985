// SPDX-License-Identifier: Apache-2.0
#include "client/stream_report.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "client/format.h"
#include "client/model_text.h"
#include "client/plot.h"

namespace weir::client {
namespace {

constexpr absl::Duration kDrawEvery = absl::Milliseconds(100);
constexpr absl::Duration kJsonEvery = absl::Seconds(1);
constexpr absl::Duration kLineEvery = absl::Seconds(5);

}  // namespace

StreamReport::StreamReport(Output& out,
                           bool json,
                           StreamStart start,
                           absl::Time now)
    : out_(out),
      json_(json),
      start_(std::move(start)),
      begun_(now),
      position_(start_.position),
      bytes_(start_.bytes),
      scored_tokens_(start_.scored_tokens),
      sum_log_prob_(start_.sum_log_prob),
      last_part_(now),
      last_shown_(now),
      token_rate_(now),
      byte_rate_(now) {
  if (!json_) return;
  out_.Json({{"event", "open"},
             {"session_id", start_.session_id},
             {"model", start_.model.name()},
             {"position", start_.position}});
}

void StreamReport::Add(const AppendedPart& part,
                       uint64_t bytes,
                       absl::Time now) {
  const absl::Duration took = now - last_part_ - idle_;
  last_part_ = now;
  idle_ = absl::ZeroDuration();
  bytes_ = bytes;
  const uint64_t end = part.start + part.tokens;
  if (end <= position_) return;
  // A resumed session is sent its last block again; that is counted already.
  const uint64_t known = position_ > part.start ? position_ - part.start : 0;
  std::span<const float> scores = part.scores;
  if (!scores.empty()) scores = scores.subspan(known);
  for (const float score : scores) {
    if (std::isnan(score)) continue;
    ++scored_tokens_;
    sum_log_prob_ += score;
  }
  curve_.Add(part.start + known, part.tokens - known, scores, took);
  position_ = end;
  token_rate_.Add(now, static_cast<double>(position_ - start_.position));
  byte_rate_.Add(now, static_cast<double>(bytes_ - start_.bytes));
}

std::optional<double> StreamReport::bits() const {
  if (scored_tokens_ == 0) return std::nullopt;
  return BitsPerToken(sum_log_prob_, scored_tokens_);
}

std::string StreamReport::bits_key() const {
  return IdsAreBytes(start_.model) ? "bits_per_byte" : "bits_per_token";
}

Progress StreamReport::Now(absl::Time now) const {
  Progress progress;
  progress.position = position_;
  progress.tokens_per_second = token_rate_.rate();
  progress.bits = bits();
  progress.bits_unit = IdsAreBytes(start_.model) ? "byte" : "token";
  progress.elapsed = now - begun_;
  std::optional<double> total;
  if (start_.size_bytes.has_value() && *start_.size_bytes > 0) {
    total = static_cast<double>(*start_.size_bytes);
    progress.fraction = static_cast<double>(bytes_) / *total;
  }
  progress.left =
      EstimateLeft(static_cast<double>(bytes_), total, byte_rate_.rate());
  return progress;
}

nlohmann::ordered_json StreamReport::ProgressJson(absl::Time now) const {
  const Progress progress = Now(now);
  nlohmann::ordered_json json = {
      {"event", "progress"},
      {"position", position_},
      {"tokens", position_ - start_.position},
      {"seconds", absl::ToDoubleSeconds(progress.elapsed)}};
  if (progress.tokens_per_second.has_value()) {
    json["tokens_per_second"] = *progress.tokens_per_second;
  }
  if (progress.bits.has_value()) json[bits_key()] = *progress.bits;
  if (progress.fraction.has_value()) json["fraction"] = *progress.fraction;
  if (progress.left.has_value()) {
    json["eta_seconds"] = absl::ToDoubleSeconds(*progress.left);
  }
  return json;
}

void StreamReport::Refresh(absl::Time now) {
  const bool bar = out_.err_is_terminal() && !json_;
  const absl::Duration every =
      bar ? kDrawEvery : (json_ ? kJsonEvery : kLineEvery);
  if (now - last_shown_ < every) return;
  last_shown_ = now;
  if (json_) {
    out_.Json(ProgressJson(now));
  } else if (bar) {
    // The last column stays free: some terminals wrap when it is written.
    out_.DrawStatus(RenderProgress(Now(now), out_.width() - 1, out_.unicode()));
  } else {
    out_.Note(DescribeProgress(Now(now)) + "\n");
  }
}

void StreamReport::Finish(const StreamTotals& totals, absl::Time now) {
  const uint64_t tokens = position_ - start_.position;
  const absl::Duration elapsed = now - begun_;
  const double seconds = absl::ToDoubleSeconds(elapsed);
  const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  if (json_) {
    nlohmann::ordered_json json = {
        {"event", "summary"},
        {"session_id", start_.session_id},
        {"model", start_.model.name()},
        {"position", position_},
        {"tokens", tokens},
        {"duplicate_tokens", totals.duplicate_tokens},
        {"resumes", totals.resumes},
        {"seconds", seconds},
        {"tokens_per_second", rate},
        {"scored_tokens", scored_tokens_},
        {"sum_log_prob", sum_log_prob_},
        {bits_key(), nullptr}};
    if (bits().has_value()) json[bits_key()] = *bits();
    out_.Json(json);
    return;
  }
  if (out_.err_is_terminal()) {
    out_.DrawStatus(RenderProgress(Now(now), out_.width() - 1, out_.unicode()));
    out_.KeepStatus();
  }
  std::string line =
      "session " + out_.Bold(start_.session_id) + " is at position " +
      FormatCount(position_) + ": " + FormatCount(tokens) + " tokens in " +
      (seconds < 60 ? FormatLatency(seconds) : FormatClock(elapsed)) + ", " +
      FormatRate(rate) + " tokens/s";
  if (bits().has_value()) {
    line += ", " + out_.Bold(FormatFixed(*bits(), 4) + " bits per " +
                             Now(now).bits_unit);
  }
  if (totals.resumes > 0) {
    line += ", reconnected " +
            (totals.resumes == 1 ? std::string("once")
                                 : std::to_string(totals.resumes) + " times");
  }
  out_.Write(line + "\n");
}

absl::Status StreamReport::WritePlot(const std::string& path) const {
  PlotText text{
      .title = start_.document.substr(start_.document.rfind('/') + 1) +
               " through " + start_.model.name(),
      .subtitle = "session " + start_.session_id + ", position " +
                  FormatCount(start_.position) + " to " +
                  FormatCount(position_) + ", one state of " +
                  FormatBytes(start_.model.state_bytes()),
      .bits_unit = IdsAreBytes(start_.model) ? "byte" : "token"};
  if (bits().has_value()) {
    text.subtitle += ", " + FormatFixed(*bits(), 3) + " bits per " +
                     text.bits_unit + " in all";
  }
  const std::string svg = DrawCurve(curve_, text);
  FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    return absl::NotFoundError("cannot write " + path + ": " +
                               std::strerror(errno));
  }
  const bool written =
      std::fwrite(svg.data(), 1, svg.size(), file) == svg.size();
  if (std::fclose(file) != 0 || !written) {
    return absl::DataLossError("cannot write " + path);
  }
  return absl::OkStatus();
}

}  // namespace weir::client
