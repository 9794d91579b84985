// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/status_macros.h"
#include "text/refusal.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace weir::text {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJson = "tokenizer.json";
constexpr uint32_t kByteIds = 256;
// Formats that are not read. With one of them, ids are not bytes.
constexpr const char* kOthers[] = {
    "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"};

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  const int value_;
};

// A link may lead elsewhere in the folder, not out of it.
absl::Status CheckWithin(const fs::path& folder, const fs::path& file) {
  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  if (error) return Refusal(error.message());
  const std::string root = folder.string() + "/";
  if (real.string().starts_with(root)) return absl::OkStatus();
  return Refusal("a link that leads out of the folder");
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     size_t bytes_max) {
  // Without O_NONBLOCK a pipe of that name would be waited for.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info;
  if (file.get() < 0 || fstat(file.get(), &info) != 0) {
    return Refusal(strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) return Refusal("not a regular file");
  if (static_cast<uint64_t>(info.st_size) > bytes_max) {
    return Refusal(info.st_size, " bytes, at most ", bytes_max);
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  for (size_t at = 0; at < text.size();) {
    const ssize_t got = read(file.get(), text.data() + at, text.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Refusal("cannot be read to its end");
    at += static_cast<size_t>(got);
  }
  return text;
}

// The file's tokenizer, by the reader for its kind.
template <typename Reader>
absl::StatusOr<std::optional<Tokenizer>> Load(const fs::path& folder,
                                              const std::string& name,
                                              size_t bytes_max,
                                              const Reader& reader) {
  const std::string path = (folder / name).string();
  const absl::Status within = CheckWithin(folder, path);
  if (!within.ok()) return At(path, within);
  const auto text = ReadFile(path, bytes_max);
  if (!text.ok()) return At(path, text.status());
  auto read = reader(*text);
  if (!read.ok()) return At(path, read.status());
  return Tokenizer(*std::move(read));
}

}  // namespace

absl::StatusOr<std::optional<Tokenizer>> LoadTokenizer(
    const std::string& folder, uint32_t vocabulary) {
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  if (error) return Refusal(folder, ": ", error.message());
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(real, error)) {
    names.push_back(entry.path().filename().string());
  }
  if (error) return Refusal(folder, ": ", error.message());
  const auto has = [&names](const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };

  if (has(kJson)) {
    return Load(
        real, kJson, kTokenizerJsonBytesMax, [=](const std::string& text) {
          return ParseTokenizerJson(text, vocabulary);
        });
  }
  std::vector<std::string> lists;
  for (const std::string& name : names) {
    if (name.starts_with("rwkv_vocab_") && name.ends_with(".txt")) {
      lists.push_back(name);
    }
  }
  if (lists.size() > 1) {
    return Refusal(folder, ": holds both ", lists[0], " and ", lists[1]);
  }
  if (lists.size() == 1) {
    return Load(real,
                lists[0],
                RwkvVocabulary::kFileBytesMax,
                [=](const std::string& text) {
                  return RwkvVocabulary::Parse(text, vocabulary);
                });
  }
  const bool other = std::any_of(std::begin(kOthers), std::end(kOthers), has);
  if (other || vocabulary < kByteIds) return std::nullopt;
  return Tokenizer();
}

}  // namespace weir::text
