// SPDX-License-Identifier: Apache-2.0
//
// A session with what a person needs to write to it and read from it: the
// model, its start token, and generated tokens as text.
//
// Threads: one thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/sampling_flags.h"
#include "client/session.h"
#include "client/tool.h"
#include "client/utf8.h"

namespace weir::client {

class TextSession {
 public:
  // The open session of that id; without one (empty), or if `open_missing`
  // and it is not open, a new one. A new one has read the model's start token,
  // and closes at the end.
  static absl::StatusOr<TextSession> Open(Tool& tool,
                                          const std::string& session_id,
                                          const std::string& model,
                                          bool open_missing);

  Session& session() { return session_; }
  const v1::Model& model() const { return model_; }
  bool created() const { return created_; }

  // Appends text of any length. What is not valid UTF-8 goes as bytes.
  absl::Status Say(std::string_view text);
  // Generates, and writes the text as it comes, or JSON events.
  absl::StatusOr<GenerationEnd> Continue(const v1::GenerateRequest& request);

 private:
  TextSession(Tool& tool, Session session, v1::Model model, bool created);
  // Appends valid UTF-8 as text, block by block.
  absl::Status SayText(std::string_view text);
  // Generated tokens as what can be shown now.
  std::string TextOf(const v1::GenerateReply& reply, Utf8Assembler& assembler);
  void Show(const v1::GenerateReply& reply, const std::string& text);

  Tool* tool_;
  Session session_;
  v1::Model model_;
  bool created_;
};

}  // namespace weir::client
