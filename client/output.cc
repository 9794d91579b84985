// SPDX-License-Identifier: Apache-2.0
#include "client/output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "client/utf8.h"

namespace weir::client {
namespace {

constexpr int kWidthUnknown = 80;

bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    std::string locale(value);
    std::transform(locale.begin(), locale.end(), locale.begin(), ::tolower);
    return locale.find("utf-8") != std::string::npos ||
           locale.find("utf8") != std::string::npos;
  }
  return false;
}

}  // namespace

Output::Output(FILE* out, FILE* err)
    : out_(out),
      err_(err),
      out_is_terminal_(isatty(fileno(out)) == 1),
      err_is_terminal_(isatty(fileno(err)) == 1),
      unicode_(LocaleIsUtf8()) {
  set_colour(true);
}

void Output::set_colour(bool allowed) {
  const char* no_color = std::getenv("NO_COLOR");
  const bool refused = no_color != nullptr && *no_color != '\0';
  colour_ = allowed && !refused && err_is_terminal_ && out_is_terminal_;
}

void Output::Write(std::string_view text) {
  if (broken_) return;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), out_) == text.size() &&
      std::fflush(out_) == 0;
  if (written) return;
  broken_ = true;
  if (on_broken_) on_broken_();
}

void Output::Json(const nlohmann::ordered_json& json) {
  Write(json.dump(
            -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
        "\n");
}

void Output::Note(std::string_view text) {
  ClearStatus();
  std::fwrite(text.data(), 1, text.size(), err_);
  std::fflush(err_);
}

void Output::DrawStatus(const std::string& line) {
  // To the line's beginning, the new text, and what the old one had more.
  std::fprintf(err_, "\r%s\x1b[K", line.c_str());
  std::fflush(err_);
  status_shown_ = true;
}

void Output::ClearStatus() {
  if (!status_shown_) return;
  std::fputs("\r\x1b[K", err_);
  std::fflush(err_);
  status_shown_ = false;
}

void Output::KeepStatus() {
  if (!status_shown_) return;
  std::fputs("\n", err_);
  std::fflush(err_);
  status_shown_ = false;
}

int Output::width() const {
  winsize size{};
  if (ioctl(fileno(err_), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return kWidthUnknown;
  }
  return size.ws_col;
}

std::string Output::Dim(std::string_view text) const {
  return colour_ ? "\x1b[2m" + std::string(text) + "\x1b[0m"
                 : std::string(text);
}

std::string Output::Bold(std::string_view text) const {
  return colour_ ? "\x1b[1m" + std::string(text) + "\x1b[0m"
                 : std::string(text);
}

}  // namespace weir::client
