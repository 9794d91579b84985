// SPDX-License-Identifier: Apache-2.0
//
// `weir stream`: a document into a session.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "client/document.h"
#include "client/errors.h"
#include "client/flag_range.h"
#include "client/format.h"
#include "client/model_text.h"
#include "client/session.h"
#include "client/stream_report.h"
#include "client/stream_text.h"
#include "client/tool.h"

namespace weir::client {
namespace {

struct StreamFlags {
  std::string file;
  std::string session_id;
  std::string model;
  std::string plot;
  uint32_t append_tokens = 256;
  int window = 16;
  bool resume = false;
  uint64_t begin = 0;
  bool no_scores = false;
  bool no_start_token = false;
  bool ids = false;
  bool close = false;
};

class StreamRun {
 public:
  StreamRun(Tool& tool, const StreamFlags& flags)
      : tool_(tool), flags_(flags) {}

  absl::Status Run() {
    WEIR_ASSIGN_OR_RETURN(client_, tool_.Connect());
    WEIR_RETURN_IF_ERROR(Find());
    // Before a session is opened, so that a wrong name leaves none behind.
    WEIR_RETURN_IF_ERROR(OpenDocument());
    WEIR_RETURN_IF_ERROR(CheckPlot());
    if (start_.session_id.empty()) WEIR_RETURN_IF_ERROR(OpenSession());
    absl::Status status = Stream();
    if (!status.ok()) After(status);
    return status;
  }

 private:
  // Finds the model, and the session if it is open.
  absl::Status Find() {
    std::string model = flags_.model;
    if (!flags_.session_id.empty()) {
      const absl::StatusOr<v1::Session> found =
          GetSettled(*client_, flags_.session_id);
      if (found.ok()) {
        start_.session_id = found->session_id();
        start_.position = found->position();
        start_.scored_tokens = found->scored_tokens();
        start_.sum_log_prob = found->sum_log_prob();
        model = found->model();
      } else if (flags_.resume || !IsNotOpen(found.status())) {
        return found.status();
      }
    }
    WEIR_ASSIGN_OR_RETURN(start_.model, tool_.PickModel(model));
    return absl::OkStatus();
  }

  // The session stays open unless --close says else.
  absl::Status OpenSession() {
    v1::OpenSessionRequest request;
    request.set_session_id(flags_.session_id);
    request.set_model(start_.model.name());
    WEIR_ASSIGN_OR_RETURN(Session session, Session::Open(*client_, request));
    session.Detach();
    start_.session_id = session.id();
    opened_ = true;
    return absl::OkStatus();
  }

  // Opens the document and finds the token to begin with: the first, or, to
  // resume, those of the last append again, so that the server compares them.
  absl::Status OpenDocument() {
    const bool ids = flags_.ids || !start_.model.takes_text();
    is_text_ = !ids && !IdsAreBytes(start_.model);
    if (is_text_ && flags_.resume) {
      return absl::FailedPreconditionError(
          "where a text goes on at a position is known to the tokenizer of " +
          start_.model.name() +
          " alone: --resume works with --ids, or give the rest of the text");
    }
    WEIR_ASSIGN_OR_RETURN(Document document,
                          Document::Open(flags_.file,
                                         tool_.input(),
                                         ids ? Document::Format::kIds
                                             : Document::Format::kBytes));
    document_ = std::make_unique<Document>(std::move(document));
    start_.document = document_->name();
    start_.size_bytes = document_->size_bytes();
    from_ = start_.position;
    is_bytes_ = !ids && !is_text_;
    begin_ = flags_.resume ? flags_.begin : start_.position;
    if (begin_ > start_.position) {
      return absl::OutOfRangeError("the session is at position " +
                                   std::to_string(start_.position) +
                                   ", before --begin");
    }
    const bool has_start =
        start_.model.has_start_token() && !flags_.no_start_token;
    const uint64_t lead = has_start && begin_ == 0 ? 1 : 0;
    document_begin_ = begin_ + lead;
    if (flags_.resume) {
      from_ -= std::min<uint64_t>(from_ - begin_, flags_.append_tokens);
    }
    send_start_token_ = lead == 1 && from_ == 0;
    if (from_ > document_begin_) {
      WEIR_RETURN_IF_ERROR(SkipTo(from_));
    }
    start_.bytes = document_->bytes();
    return absl::OkStatus();
  }

  absl::Status SkipTo(uint64_t position) {
    const absl::Status skipped =
        document_->Skip(position - document_begin_,
                        [this] { return tool_.cancellation()->cancelled(); });
    return absl::IsOutOfRange(skipped)
               ? EndsEarly("before position " + std::to_string(position))
               : skipped;
  }

  // Better now than after hours.
  absl::Status CheckPlot() const {
    if (flags_.plot.empty()) return absl::OkStatus();
    FILE* file = std::fopen(flags_.plot.c_str(), "a");
    if (file == nullptr) {
      return absl::NotFoundError("cannot write " + flags_.plot + ": " +
                                 std::strerror(errno));
    }
    std::fclose(file);
    return absl::OkStatus();
  }

  absl::StatusOr<TokenRead> Read(std::span<uint32_t> room) {
    size_t lead = 0;
    if (send_start_token_) {
      send_start_token_ = false;
      room[0] = start_.model.start_token();
      lead = 1;
    }
    const absl::Time before = absl::Now();
    TokenRead read;
    // A first append of the start token alone is right for a silent pipe.
    if (lead < room.size()) {
      WEIR_ASSIGN_OR_RETURN(read, document_->Read(room.subspan(lead)));
    }
    read.tokens += lead;
    const absl::Time now = absl::Now();
    // A text is answered before it is read on.
    if (read.tokens == 0 && (is_text_ || read_to_ == report_->position())) {
      report_->AddIdle(now - before);
    }
    read_to_ += read.tokens;
    report_->Refresh(now);
    return read;
  }

  // How much of the document has been answered at a position. Ids have
  // different lengths: there it is what has been read.
  uint64_t BytesUntil(uint64_t position) const {
    return is_bytes_ ? position - document_begin_ : document_->bytes();
  }

  absl::StatusOr<StreamTotals> AppendTokens() {
    return StreamAppend(
        *client_,
        start_.session_id,
        from_,
        {.append_tokens = flags_.append_tokens,
         .window = flags_.window,
         .want_scores = !flags_.no_scores},
        [this](std::span<uint32_t> room) { return Read(room); },
        [this](const AppendedPart& part, const StreamTotals&) {
          Answered(part, BytesUntil(part.start + part.tokens));
        });
  }

  absl::StatusOr<StreamTotals> AppendText() {
    WEIR_ASSIGN_OR_RETURN(Session session,
                          Session::Attach(*client_, start_.session_id));
    const bool lead = std::exchange(send_start_token_, false);
    if (lead) {
      const uint32_t start = start_.model.start_token();
      WEIR_RETURN_IF_ERROR(session.Append({&start, 1}).status());
      Answered({.start = from_, .tokens = 1, .scores = {}}, 0);
    }
    WEIR_ASSIGN_OR_RETURN(
        StreamTotals totals,
        StreamText(
            session,
            {.want_scores = !flags_.no_scores},
            [this](std::span<uint32_t> room) { return Read(room); },
            [this](const AppendedPart& part, uint64_t bytes) {
              text_bytes_ = bytes;
              Answered(part, bytes);
            }));
    if (lead) ++totals.tokens;
    return totals;
  }

  void Answered(const AppendedPart& part, uint64_t bytes) {
    const absl::Time now = absl::Now();
    report_->Add(part, bytes, now);
    report_->Refresh(now);
  }

  absl::Status Stream() {
    report_ = std::make_unique<StreamReport>(
        tool_.out(), tool_.json(), start_, absl::Now());
    read_to_ = from_;
    const absl::StatusOr<StreamTotals> totals =
        is_text_ ? AppendText() : AppendTokens();
    // What was measured before an error is worth a picture too.
    absl::Status plotted;
    if (!flags_.plot.empty()) plotted = report_->WritePlot(flags_.plot);
    WEIR_RETURN_IF_ERROR(totals.status());
    WEIR_RETURN_IF_ERROR(CheckLength(*totals));
    report_->Finish(*totals, absl::Now());
    finished_ = true;
    WEIR_RETURN_IF_ERROR(plotted);
    if (flags_.close) {
      return client_->CloseSession(start_.session_id).status();
    }
    if (tool_.out().err_is_terminal() && !tool_.json()) {
      tool_.out().Note(tool_.out().Dim("go on with: " + tool_.Command() +
                                       " generate --session " +
                                       start_.session_id + "\n"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckLength(const StreamTotals& totals) const {
    if (totals.position >= start_.position) return absl::OkStatus();
    return EndsEarly("at position " + std::to_string(totals.position));
  }

  absl::Status EndsEarly(const std::string& where) const {
    return absl::OutOfRangeError(document_->name() + " ends " + where +
                                 ", but the session is at " +
                                 std::to_string(start_.position) +
                                 ": it has read something else, or more");
  }

  std::string ResumeCommand() const {
    std::string command = tool_.Command() + " stream " +
                          FormatShellWord(flags_.file) + " --session " +
                          start_.session_id + " --resume";
    if (begin_ > 0) command += " --begin " + std::to_string(begin_);
    if (flags_.no_start_token) command += " --no-start-token";
    if (flags_.ids) command += " --ids";
    return command;
  }

  // Appends what the session has not read of the text.
  std::string RestCommand() const {
    return "tail -c +" + std::to_string(text_bytes_ + 1) + " " +
           FormatShellWord(flags_.file) + " | " + tool_.Command() +
           " stream - --session " + start_.session_id;
  }

  // After an error: how to go on, if anything was appended; else the new
  // session is of no use.
  void After(const absl::Status& status) {
    const bool interrupted = tool_.cancellation()->cancelled();
    if (opened_ && !interrupted && report_->position() == 0 &&
        !ReasonOf(status).empty()) {
      client_->CloseSession(start_.session_id).IgnoreError();
      return;
    }
    if (tool_.json() || flags_.file == "-" || finished_) return;
    // What was refused for good would be refused again.
    const bool may_go_on =
        (ReasonOf(status).empty() && !absl::IsInvalidArgument(status)) ||
        RetryDelayOf(status).has_value();
    const bool advanced = report_->position() > start_.position;
    if (!interrupted && !(advanced && may_go_on)) return;
    tool_.out().Note(
        "stopped at position " + FormatCount(report_->position()) +
        "; go on with: " + (is_text_ ? RestCommand() : ResumeCommand()) + "\n");
  }

  Tool& tool_;
  const StreamFlags& flags_;
  Client* client_ = nullptr;
  StreamStart start_;
  std::unique_ptr<Document> document_;
  std::unique_ptr<StreamReport> report_;
  bool is_bytes_ = true;
  bool is_text_ = false;         // the server makes tokens of it
  uint64_t text_bytes_ = 0;      // of the text, answered
  uint64_t begin_ = 0;           // position of the document, start token first
  uint64_t document_begin_ = 0;  // position of its first own token
  uint64_t from_ = 0;            // position of the first token that is sent
  uint64_t read_to_ = 0;
  bool send_start_token_ = false;
  bool opened_ = false;  // here
  bool finished_ = false;
};

}  // namespace

void AddStreamCommand(CLI::App& app, Tool& tool) {
  CLI::App* command =
      app.add_subcommand("stream", "Stream a document into a session");
  auto flags = std::make_shared<StreamFlags>();
  command->add_option("file", flags->file, "The document; - is standard input")
      ->type_name("FILE")
      ->required();
  CLI::Option* session =
      command
          ->add_option("--session",
                       flags->session_id,
                       "Session to append to; opened if it is not open. "
                       "Without it: a new one")
          ->type_name("ID");
  command
      ->add_option("--model",
                   flags->model,
                   "Model of a new session; needed "
                   "where several are served")
      ->type_name("MODEL");
  CLI::Option* resume =
      command
          ->add_flag(
              "--resume",
              flags->resume,
              "Go on with a document that the session has read a part of")
          ->needs(session);
  command
      ->add_option("--begin",
                   flags->begin,
                   "With --resume: the position at which the document begins, "
                   "if the session had read something before it")
      ->type_name("N")
      ->needs(resume);
  command
      ->add_option("--append-tokens", flags->append_tokens, "Tokens an append")
      ->type_name("N")
      ->check(Within(1, 65'536))
      ->capture_default_str();
  command->add_option("--window", flags->window, "Appends in flight at most")
      ->type_name("N")
      ->check(Within(1, 1024))
      ->capture_default_str();
  command->add_flag("--no-scores",
                    flags->no_scores,
                    "Do not ask for scores: no bits per byte");
  command->add_flag("--no-start-token",
                    flags->no_start_token,
                    "Do not send the model's start token first");
  command->add_flag("--ids",
                    flags->ids,
                    "The document is token ids in decimal, not text; always "
                    "so for models without text");
  command
      ->add_option(
          "--plot", flags->plot, "Draw bits and milliseconds against position")
      ->type_name("OUT.svg");
  command->add_flag("--close", flags->close, "Close the session at the end");
  command->callback([flags, &tool] {
    tool.set_command([flags, &tool] { return StreamRun(tool, *flags).Run(); });
  });
}

}  // namespace weir::client
