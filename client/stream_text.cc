// SPDX-License-Identifier: Apache-2.0
#include "client/stream_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/utf8.h"

namespace weir::client {
namespace {

class TextStream {
 public:
  TextStream(Session& session,
             const StreamTextOptions& options,
             const OnTextAppended& on_appended)
      : session_(session), options_(options), on_appended_(on_appended) {
    totals_.position = session.position();
  }

  absl::StatusOr<StreamTotals> Run(const TokenSource& source) {
    std::array<uint32_t, 4096> room;
    TokenRead read;
    while (!read.end) {
      WEIR_ASSIGN_OR_RETURN(read, source(room));
      for (size_t i = 0; i < read.tokens; ++i) {
        text_ += static_cast<char>(room[i]);
      }
      while (text_.size() > options_.block_bytes) {
        WEIR_RETURN_IF_ERROR(Send(TextBlockBytes(text_, options_.block_bytes)));
      }
      // What is there of a slow source is of use at once, line by line.
      if (read.tokens == 0 || read.end) {
        WEIR_RETURN_IF_ERROR(
            Send(read.end ? text_.size() : text_.rfind('\n') + 1));
      }
    }
    return totals_;
  }

 private:
  // Appends the first `bytes` of text_.
  absl::Status Send(size_t bytes) {
    if (bytes == 0) return absl::OkStatus();
    const std::string block = text_.substr(0, bytes);
    const std::string valid = ToValidUtf8(block);
    if (valid != block) {
      const auto at =
          std::mismatch(block.begin(), block.end(), valid.begin(), valid.end());
      return absl::InvalidArgumentError(
          absl::StrCat("the document is not UTF-8 at byte ",
                       sent_ + static_cast<uint64_t>(at.first - block.begin()),
                       ", and this model reads text; --ids sends token ids"));
    }
    const uint64_t start = session_.position();
    WEIR_ASSIGN_OR_RETURN(
        const v1::AppendReply reply,
        session_.AppendText(block, {.want_scores = options_.want_scores}));
    text_.erase(0, bytes);
    sent_ += bytes;
    const std::vector<float> scores(reply.scores().begin(),
                                    reply.scores().end());
    totals_.position = reply.position();
    totals_.tokens += reply.position() - start;
    totals_.duplicate_tokens += reply.duplicate_tokens();
    for (const float score : scores) {
      if (std::isnan(score)) continue;
      ++totals_.scored_tokens;
      totals_.sum_log_prob += score;
    }
    on_appended_(
        {.start = start, .tokens = reply.position() - start, .scores = scores},
        sent_);
    return absl::OkStatus();
  }

  Session& session_;
  const StreamTextOptions& options_;
  const OnTextAppended& on_appended_;
  StreamTotals totals_;
  std::string text_;  // read and not sent
  uint64_t sent_ = 0;
};

}  // namespace

size_t TextBlockBytes(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text.size();
  const size_t line = text.substr(0, bytes_max).rfind('\n');
  if (line != std::string_view::npos) return line + 1;
  // A character has at most three bytes after its first.
  size_t bytes = bytes_max;
  while (bytes > bytes_max - 3 && (text[bytes] & 0xc0) == 0x80) --bytes;
  return bytes;
}

absl::StatusOr<StreamTotals> StreamText(Session& session,
                                        const StreamTextOptions& options,
                                        const TokenSource& source,
                                        const OnTextAppended& on_appended) {
  return TextStream(session, options, on_appended).Run(source);
}

}  // namespace weir::client
