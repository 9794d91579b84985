// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint.h"

#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/config/strict_json.h"

namespace weir::engine {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kConfigBytesMax = int64_t{1} << 20;
constexpr int64_t kIndexBytesMax = int64_t{16} << 20;
constexpr int64_t kSumsBytesMax = int64_t{1} << 20;
constexpr size_t kShardsMax = 512;
constexpr int64_t kHashBytes = int64_t{1} << 20;

constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"};

absl::Status Bad(std::string_view word,
                 const std::string& path,
                 std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(word), ": ", path, ": ", std::string(what)));
}

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// Whether `name` is a plain file name.
bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) ==
             std::string_view::npos;
}

// The path of `name` in `folder`; `word` if a link leads out of the folder.
absl::StatusOr<std::string> PathInFolder(const std::string& folder,
                                         const std::string& name,
                                         std::string_view word) {
  if (!IsPlainName(name)) {
    return Bad(
        word, folder, absl::StrCat(Quoted(name), " is not a plain file name"));
  }
  const fs::path path = fs::path(folder) / name;
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrCat(
        std::string(word), ": ", path.string(), ": ", error.message()));
  }
  if (real.parent_path() != fs::path(folder)) {
    const std::string root = folder + "/";
    if (real.string().compare(0, root.size(), root) != 0) {
      return Bad(word, path.string(), "a link that leads out of the folder");
    }
  }
  return path.string();
}

// What to say of a folder without weights that can be read.
absl::Status NoWeights(const std::string& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(folder, error)) {
    const std::string extension = entry.path().extension().string();
    for (const char* foreign :
         {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf", ".onnx", ".h5"}) {
      if (extension == foreign) {
        return Bad("FORMAT",
                   folder,
                   absl::StrCat("holds ",
                                Quoted(entry.path().filename().string()),
                                " but no model.safetensors: convert the "
                                "weights to safetensors; no other format is "
                                "read"));
      }
    }
  }
  return absl::NotFoundError(absl::StrCat(
      "FORMAT: ",
      folder,
      ": holds neither model.safetensors nor model.safetensors.index.json"));
}

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  WEIR_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  struct stat info;
  if (fstat(file.get(), &info) != 0) return Bad("IO", path, "cannot be read");
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(
      EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (context == nullptr ||
      EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return absl::InternalError("SHA-256 is not available");
  }
  std::vector<std::byte> buffer(kHashBytes);
  for (int64_t done = 0; done < info.st_size;) {
    const int64_t count = std::min<int64_t>(info.st_size - done, kHashBytes);
    const std::span<std::byte> part(buffer.data(), count);
    WEIR_RETURN_IF_ERROR(ReadFully(file, path, done, part));
    EVP_DigestUpdate(context.get(), part.data(), part.size());
    done += count;
  }
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(
      context.get(), reinterpret_cast<unsigned char*>(digest.data()), &bytes);
  digest.resize(bytes);
  return absl::BytesToHexString(digest);
}

// One line of sha256sum's output: 64 hex digits, two characters, a name.
absl::Status CheckSum(const std::string& folder, std::string_view line) {
  const std::string sums = folder + "/SHA256SUMS";
  if (line.size() < 67 || line[64] != ' ' ||
      (line[65] != ' ' && line[65] != '*')) {
    return Bad("INTEGRITY", sums, absl::StrCat("bad line ", Quoted(line)));
  }
  std::string expected(line.substr(0, 64));
  for (char& digit : expected) {
    if (std::isxdigit(static_cast<unsigned char>(digit)) == 0) {
      return Bad("INTEGRITY", sums, absl::StrCat("bad line ", Quoted(line)));
    }
    digit = static_cast<char>(std::tolower(static_cast<unsigned char>(digit)));
  }
  WEIR_ASSIGN_OR_RETURN(
      const std::string path,
      PathInFolder(folder, std::string(line.substr(66)), "INTEGRITY"));
  WEIR_ASSIGN_OR_RETURN(const std::string actual, Sha256OfFile(path));
  if (actual != expected) {
    return Bad("INTEGRITY",
               path,
               absl::StrCat(
                   "its SHA-256 is ", actual, ", SHA256SUMS says ", expected));
  }
  return absl::OkStatus();
}

absl::Status CheckSums(const std::string& folder) {
  if (!Exists(fs::path(folder) / "SHA256SUMS")) return absl::OkStatus();
  WEIR_ASSIGN_OR_RETURN(const std::string path,
                        PathInFolder(folder, "SHA256SUMS", "INTEGRITY"));
  WEIR_ASSIGN_OR_RETURN(const std::string text,
                        ReadSmallFile(path, kSumsBytesMax));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    if (!line.empty()) WEIR_RETURN_IF_ERROR(CheckSum(folder, line));
    begin = end + 1;
  }
  return absl::OkStatus();
}

// The index's weight_map, tensor to file.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(
    const std::string& path) {
  WEIR_ASSIGN_OR_RETURN(const std::string text,
                        ReadSmallFile(path, kIndexBytesMax));
  auto index = ParseStrictJson(text, {.depth = 4, .values = 1'000'000});
  if (!index.ok()) {
    return Bad("INDEX", path, std::string(index.status().message()));
  }
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return Bad("INDEX", path, "has no weight_map");
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : (*index)["weight_map"].items()) {
    if (!file.is_string() || !IsPlainName(file.get<std::string>()) ||
        fs::path(file.get<std::string>()).extension() != ".safetensors") {
      return Bad("INDEX",
                 path,
                 absl::StrCat("tensor ",
                              Quoted(name),
                              ": ",
                              Quoted(file.dump(-1, ' ', true)),
                              " is not the plain name of a safetensors file"));
    }
    files.emplace(name, file.get<std::string>());
  }
  return files;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  if (folder.find("://") != std::string::npos) {
    return Bad("FORMAT",
               Quoted(folder),
               "a model is a folder on this machine; nothing is downloaded");
  }
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("IO: ", folder, ": ", error.message()));
  }
  if (!fs::is_directory(real, error)) {
    return Bad("FORMAT", folder, "a model is a folder, and this is not one");
  }
  Checkpoint out;
  out.folder_ = real.string();
  WEIR_RETURN_IF_ERROR(CheckSums(out.folder_));
  WEIR_ASSIGN_OR_RETURN(const std::string config_path,
                        PathInFolder(out.folder_, "config.json", "CONFIG"));
  WEIR_ASSIGN_OR_RETURN(out.config_,
                        ReadSmallFile(config_path, kConfigBytesMax));
  for (const char* name : kTokenizerFiles) {
    if (Exists(real / name)) out.has_tokenizer_ = true;
  }

  if (Exists(real / "model.safetensors")) {
    WEIR_ASSIGN_OR_RETURN(
        const std::string path,
        PathInFolder(out.folder_, "model.safetensors", "FORMAT"));
    WEIR_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    for (const auto& [name, info] : file.tensors()) out.file_of_[name] = 0;
    out.files_.push_back(std::move(file));
    return out;
  }
  if (Exists(real / "model.safetensors.index.json")) {
    WEIR_ASSIGN_OR_RETURN(
        const std::string path,
        PathInFolder(out.folder_, "model.safetensors.index.json", "INDEX"));
    WEIR_RETURN_IF_ERROR(out.OpenShards(path));
    return out;
  }
  return NoWeights(out.folder_);
}

absl::Status Checkpoint::OpenShards(const std::string& index_path) {
  WEIR_ASSIGN_OR_RETURN(const auto shard_of, ParseIndex(index_path));
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  if (shards.empty() || shards.size() > kShardsMax) {
    return Bad("INDEX",
               index_path,
               absl::StrCat("names ",
                            shards.size(),
                            " files; 1 to ",
                            kShardsMax,
                            " can be read"));
  }
  for (const std::string& shard : shards) {
    WEIR_ASSIGN_OR_RETURN(const std::string path,
                          PathInFolder(folder_, shard, "INDEX"));
    WEIR_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    for (const auto& [name, info] : file.tensors()) {
      const auto listed = shard_of.find(name);
      if (listed == shard_of.end()) {
        return Bad(
            "EXTRA_TENSOR",
            path,
            absl::StrCat(
                "tensor ", Quoted(name), ": the index does not list it"));
      }
      if (!file_of_.emplace(name, files_.size()).second ||
          listed->second != shard) {
        return Bad("INDEX",
                   path,
                   absl::StrCat("tensor ",
                                Quoted(name),
                                ": another file has it too, or should"));
      }
    }
    files_.push_back(std::move(file));
  }
  for (const auto& [name, shard] : shard_of) {
    if (!file_of_.contains(name)) {
      return Bad("MISSING_TENSOR",
                 folder_ + "/" + shard,
                 absl::StrCat("tensor ",
                              Quoted(name),
                              ": the index lists it, the file lacks it"));
    }
  }
  return absl::OkStatus();
}

const TensorInfo* Checkpoint::Find(const std::string& name) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) return nullptr;
  return &files_[it->second].tensors().at(name);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  out.reserve(file_of_.size());
  for (const auto& [name, file] : file_of_) out.push_back(name);
  return out;
}

absl::Status Checkpoint::Read(const std::string& name,
                              bool allow_nonfinite,
                              std::span<float> out) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) {
    return Bad("MISSING_TENSOR",
               folder_,
               absl::StrCat("tensor ", Quoted(name), ": is in no file"));
  }
  return files_[it->second].Read(name, allow_nonfinite, out);
}

}  // namespace weir::engine
