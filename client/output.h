// SPDX-License-Identifier: Apache-2.0
//
// Where the tool writes: results and JSON lines to `out`, everything said
// about them to `err`. A reader that goes away (`weir ... | head`) ends the
// tool quietly.
//
// Threads: one thread.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace weir::client {

class Output {
 public:
  // `out` and `err` must outlive it.
  Output(FILE* out, FILE* err);

  // Called once, when a write to `out` fails.
  void set_on_broken(std::function<void()> on_broken) {
    on_broken_ = std::move(on_broken);
  }
  void set_colour(bool allowed);

  void Write(std::string_view text);
  // One line.
  void Json(const nlohmann::ordered_json& json);
  // To `err`.
  void Note(std::string_view text);

  // A line of `err` that is drawn over and over: it is cleared before
  // anything else is written to `err`, and at the end.
  void DrawStatus(const std::string& line);
  void ClearStatus();
  // Leaves the line as it stands.
  void KeepStatus();

  bool broken() const { return broken_; }
  bool out_is_terminal() const { return out_is_terminal_; }
  bool err_is_terminal() const { return err_is_terminal_; }
  // Columns of err's terminal now.
  int width() const;
  // Whether the terminal shows more than ASCII.
  bool unicode() const { return unicode_; }
  std::string Dim(std::string_view text) const;
  std::string Bold(std::string_view text) const;

 private:
  FILE* const out_;
  FILE* const err_;
  const bool out_is_terminal_;
  const bool err_is_terminal_;
  const bool unicode_;
  bool colour_ = false;
  bool broken_ = false;
  bool status_shown_ = false;
  std::function<void()> on_broken_;
};

}  // namespace weir::client
