// SPDX-License-Identifier: Apache-2.0
#include "client/text_session.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/status_macros.h"
#include "client/errors.h"
#include "client/model_text.h"
#include "client/stream_text.h"

namespace weir::client {
namespace {

// A longer text is streamed in blocks of so many bytes: an append has a limit
// of tokens and a deadline, a stream has neither.
constexpr uint32_t kBlock = 4096;
// What the server tokenises itself is cut at a line's end: a token is of one
// byte at the least, so that a block of so many has fewer than the limit.
constexpr size_t kTextBlock = 32768;

}  // namespace

TextSession::TextSession(Tool& tool,
                         Session session,
                         v1::Model model,
                         bool created)
    : tool_(&tool),
      session_(std::move(session)),
      model_(std::move(model)),
      created_(created) {}

absl::StatusOr<TextSession> TextSession::Open(Tool& tool,
                                              const std::string& session_id,
                                              const std::string& model_name,
                                              bool open_missing) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  if (!session_id.empty()) {
    absl::StatusOr<Session> session = Session::Attach(*client, session_id);
    if (session.ok()) {
      WEIR_ASSIGN_OR_RETURN(v1::Model model,
                            client->GetModel(session->model()));
      return TextSession(tool, *std::move(session), std::move(model), false);
    }
    if (!open_missing || !IsNotOpen(session.status())) {
      return session.status();
    }
  }
  WEIR_ASSIGN_OR_RETURN(v1::Model model, tool.PickModel(model_name));
  v1::OpenSessionRequest request;
  request.set_session_id(session_id);
  request.set_model(model.name());
  WEIR_ASSIGN_OR_RETURN(Session session, Session::Open(*client, request));
  if (model.has_start_token()) {
    const uint32_t start = model.start_token();
    WEIR_RETURN_IF_ERROR(session.Append({&start, 1}).status());
  }
  return TextSession(tool, std::move(session), std::move(model), true);
}

absl::Status TextSession::Say(std::string_view text) {
  if (text.empty()) return absl::OkStatus();
  // The wire's strings are UTF-8; a byte model reads any bytes.
  if (!IdsAreBytes(model_)) return SayText(ToValidUtf8(text));
  if (text.size() <= kBlock && ToValidUtf8(text) == text) {
    return session_.AppendText(text).status();
  }
  const TokenSource bytes = [&](std::span<uint32_t> room) {
    const size_t n = std::min(room.size(), text.size());
    std::transform(text.begin(), text.begin() + n, room.begin(), [](char c) {
      return static_cast<uint8_t>(c);
    });
    text.remove_prefix(n);
    return TokenRead{.tokens = n, .end = text.empty()};
  };
  return session_
      .Stream({.append_tokens = kBlock, .want_scores = false},
              bytes,
              [](const AppendedPart&, const StreamTotals&) {})
      .status();
}

absl::Status TextSession::SayText(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = TextBlockBytes(text, kTextBlock);
    WEIR_RETURN_IF_ERROR(session_.AppendText(text.substr(0, bytes)).status());
    text.remove_prefix(bytes);
  }
  return absl::OkStatus();
}

std::string TextSession::TextOf(const v1::GenerateReply& reply,
                                Utf8Assembler& assembler) {
  if (model_.takes_text() && !IdsAreBytes(model_)) return reply.text();
  std::string text;
  for (const uint32_t token : reply.tokens()) {
    if (model_.takes_text()) {
      // Token ids are bytes. Reading them, and not the reply's text, keeps a
      // character whole that a broken connection cut in two.
      text += assembler.Push(std::string(1, static_cast<char>(token)));
    } else {
      text += std::to_string(token) + " ";
    }
  }
  return text;
}

void TextSession::Show(const v1::GenerateReply& reply,
                       const std::string& text) {
  Output& out = tool_->out();
  if (tool_->json()) {
    nlohmann::ordered_json json = {{"event", "tokens"},
                                   {"position", reply.position()},
                                   {"tokens", reply.tokens()}};
    if (model_.takes_text()) json["text"] = text;
    if (reply.log_probs_size() > 0) json["log_probs"] = reply.log_probs();
    out.Json(json);
  } else {
    out.Write(out.out_is_terminal() ? ForTerminal(text) : text);
  }
}

absl::StatusOr<GenerationEnd> TextSession::Continue(
    const v1::GenerateRequest& request) {
  Utf8Assembler assembler;
  absl::StatusOr<GenerationEnd> end =
      session_.Generate(request, [&](const v1::GenerateReply& reply) {
        const bool silent = reply.text().empty() || IdsAreBytes(model_);
        if (reply.tokens_size() == 0 && silent) return;
        Show(reply, TextOf(reply, assembler));
      });
  const std::string rest = assembler.Flush();
  if (!tool_->json() && !rest.empty()) tool_->out().Write(rest);
  return end;
}

}  // namespace weir::client
