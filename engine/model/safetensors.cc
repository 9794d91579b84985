// SPDX-License-Identifier: Apache-2.0
#include "engine/model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/config/strict_json.h"

namespace weir::engine {
namespace {

using nlohmann::json;

constexpr int64_t kHeaderBytesMin = 8;
constexpr int64_t kHeaderBytesMax = int64_t{16} << 20;
constexpr size_t kTensorsMax = 100'000;
constexpr size_t kRankMax = 8;
constexpr size_t kNameBytesMax = 512;
constexpr size_t kMetadataEntriesMax = 1024;
constexpr size_t kMetadataBytesMax = size_t{1} << 20;
constexpr int64_t kReadBytes = int64_t{1} << 20;

absl::Status Bad(std::string_view word,
                 const std::string& path,
                 std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(word), ": ", path, ": ", std::string(what)));
}

absl::Status BadTensor(std::string_view word,
                       const std::string& path,
                       const std::string& name,
                       std::string_view what) {
  return Bad(word,
             path,
             absl::StrCat("tensor ", Quoted(name), ": ", std::string(what)));
}

struct DtypeRow {
  const char* name;
  WeightDtype dtype;
  int64_t bytes;
};
constexpr DtypeRow kDtypes[] = {
    {"F32", WeightDtype::kFloat32, 4},
    {"BF16", WeightDtype::kBFloat16, 2},
    {"F16", WeightDtype::kFloat16, 2},
};

int64_t DtypeBytes(WeightDtype dtype) {
  return dtype == WeightDtype::kFloat32 ? 4 : 2;
}

absl::Status CheckMetadata(const json& metadata, const std::string& path) {
  if (!metadata.is_object()) {
    return Bad("METADATA", path, "__metadata__ is not an object");
  }
  if (metadata.size() > kMetadataEntriesMax) {
    return Bad("METADATA", path, "__metadata__ has more than 1024 entries");
  }
  size_t bytes = 0;
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) {
      return Bad("METADATA",
                 path,
                 absl::StrCat("__metadata__ ", Quoted(key), ": not a string"));
    }
    bytes += key.size() + value.get_ref<const std::string&>().size();
  }
  if (bytes > kMetadataBytesMax) {
    return Bad("METADATA", path, "__metadata__ is larger than 1 MiB");
  }
  return absl::OkStatus();
}

// Fills `info.shape` and `info.elements`.
absl::Status ParseShape(const json& shape,
                        const std::string& path,
                        const std::string& name,
                        TensorInfo& info) {
  if (!shape.is_array()) {
    return BadTensor("SHAPE", path, name, "shape is not a list");
  }
  if (shape.size() > kRankMax) {
    return BadTensor("SHAPE", path, name, "more than 8 dimensions");
  }
  info.elements = 1;
  for (const json& extent : shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > uint64_t{1}
                                                                     << 48) {
      return BadTensor("SHAPE",
                       path,
                       name,
                       "a dimension is not a whole number of at most 2^48");
    }
    const int64_t value = extent.get<int64_t>();
    info.shape.push_back(value);
    if (__builtin_mul_overflow(info.elements, value, &info.elements)) {
      return BadTensor("SHAPE", path, name, "its dimensions overflow");
    }
  }
  return absl::OkStatus();
}

// Fills `info.offset` (from the start of the data) and `info.bytes`.
absl::Status ParseOffsets(const json& offsets,
                          int64_t data_bytes,
                          const std::string& path,
                          const std::string& name,
                          TensorInfo& info) {
  if (!offsets.is_array() || offsets.size() != 2 ||
      !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    return BadTensor(
        "OFFSETS", path, name, "data_offsets is not two whole numbers");
  }
  const uint64_t begin = offsets[0].get<uint64_t>();
  const uint64_t end = offsets[1].get<uint64_t>();
  if (begin > end) {
    return BadTensor("OFFSETS", path, name, "data_offsets run backwards");
  }
  if (end > static_cast<uint64_t>(data_bytes)) {
    return BadTensor("OFFSETS", path, name, "data_offsets pass the end");
  }
  info.offset = static_cast<int64_t>(begin);
  info.bytes = static_cast<int64_t>(end - begin);
  return absl::OkStatus();
}

absl::StatusOr<TensorInfo> ParseTensor(const json& entry,
                                       int64_t data_bytes,
                                       const std::string& path,
                                       const std::string& name) {
  if (name.empty() || name.size() > kNameBytesMax) {
    return BadTensor("HEADER_JSON", path, name, "a name has 1 to 512 bytes");
  }
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    return BadTensor("HEADER_JSON",
                     path,
                     name,
                     "its keys are not dtype, shape and data_offsets");
  }
  TensorInfo info;
  const json& dtype = entry["dtype"];
  const DtypeRow* row = nullptr;
  for (const DtypeRow& candidate : kDtypes) {
    if (dtype.is_string() && dtype == candidate.name) row = &candidate;
  }
  if (row == nullptr) {
    return BadTensor("DTYPE",
                     path,
                     name,
                     absl::StrCat("dtype ",
                                  Quoted(dtype.dump(-1, ' ', true)),
                                  " is not F32, BF16 or F16"));
  }
  info.dtype = row->dtype;
  WEIR_RETURN_IF_ERROR(ParseShape(entry["shape"], path, name, info));
  WEIR_RETURN_IF_ERROR(
      ParseOffsets(entry["data_offsets"], data_bytes, path, name, info));
  int64_t bytes = 0;
  if (__builtin_mul_overflow(info.elements, row->bytes, &bytes) ||
      bytes != info.bytes) {
    return BadTensor("SHAPE",
                     path,
                     name,
                     absl::StrCat(ShapeText(info.shape),
                                  " of ",
                                  row->name,
                                  " does not fill ",
                                  info.bytes,
                                  " bytes"));
  }
  return info;
}

// The tensors lie end to end and fill the data.
absl::Status CheckTiling(const std::map<std::string, TensorInfo>& tensors,
                         int64_t data_bytes,
                         const std::string& path) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> by_offset;
  by_offset.reserve(tensors.size());
  for (const auto& [name, info] : tensors) by_offset.emplace_back(&name, &info);
  std::sort(by_offset.begin(), by_offset.end(), [](auto& a, auto& b) {
    return std::pair(a.second->offset, a.second->bytes) <
           std::pair(b.second->offset, b.second->bytes);
  });
  int64_t end = 0;
  for (const auto& [name, info] : by_offset) {
    if (info->offset < end) {
      return BadTensor("OFFSETS", path, *name, "overlaps another tensor");
    }
    if (info->offset > end) {
      return BadTensor("OFFSETS", path, *name, "leaves a hole before it");
    }
    end = info->offset + info->bytes;
  }
  if (end != data_bytes) {
    return Bad("OFFSETS",
               path,
               absl::StrCat(data_bytes - end, " bytes after the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, TensorInfo>> ParseHeader(
    std::string_view text, int64_t data_bytes, const std::string& path) {
  if (text.empty() || text[0] != '{') {
    return Bad("HEADER_JSON", path, "the header does not begin with {");
  }
  // A tensor's entry is 11 values: the object, four keys, and what they hold.
  auto header = ParseStrictJson(text, {.depth = 3, .values = 24 * kTensorsMax});
  if (!header.ok()) {
    return Bad("HEADER_JSON", path, std::string(header.status().message()));
  }
  std::map<std::string, TensorInfo> tensors;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      WEIR_RETURN_IF_ERROR(CheckMetadata(entry, path));
      continue;
    }
    if (tensors.size() == kTensorsMax) {
      return Bad("HEADER_JSON", path, "more than 100000 tensors");
    }
    WEIR_ASSIGN_OR_RETURN(TensorInfo info,
                          ParseTensor(entry, data_bytes, path, name));
    tensors.emplace(name, std::move(info));
  }
  WEIR_RETURN_IF_ERROR(CheckTiling(tensors, data_bytes, path));
  return tensors;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = half >> 10 & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa times 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t widened = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | widened << 23 | mantissa << 13);
}

// Converts what `bytes` holds; false if a value is not finite.
bool Convert(std::span<const std::byte> bytes, WeightDtype dtype, float* out) {
  const size_t count = bytes.size() / DtypeBytes(dtype);
  if (dtype == WeightDtype::kFloat32) {
    std::memcpy(out, bytes.data(), bytes.size());
  } else {
    for (size_t i = 0; i < count; ++i) {
      uint16_t value;
      std::memcpy(&value, bytes.data() + 2 * i, sizeof(value));
      out[i] = dtype == WeightDtype::kBFloat16
                   ? std::bit_cast<float>(uint32_t{value} << 16)
                   : HalfToFloat(value);
    }
  }
  return std::all_of(
      out, out + count, [](float x) { return std::isfinite(x); });
}

}  // namespace

const char* WeightDtypeName(WeightDtype dtype) {
  switch (dtype) {
    case WeightDtype::kFloat32:
      return "f32";
    case WeightDtype::kBFloat16:
      return "bf16";
    case WeightDtype::kFloat16:
      return "f16";
  }
  return "unknown";
}

std::string ShapeText(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path) {
  // Without O_NONBLOCK a pipe of that name would be waited for.
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const std::string what = absl::StrCat("IO: ", path, ": ", strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(what)
                           : absl::InvalidArgumentError(what);
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return Bad("IO", path, "not a regular file");
  }
  return file;
}

absl::Status ReadFully(const FileDescriptor& file,
                       const std::string& path,
                       int64_t offset,
                       std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = pread(file.get(), out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::DataLossError(
          absl::StrCat("IO: ", path, ": ", strerror(errno)));
    }
    if (got == 0) {
      return absl::DataLossError(
          absl::StrCat("TRUNCATED: ", path, ": ends at byte ", offset));
    }
    offset += got;
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          int64_t bytes_max) {
  WEIR_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  struct stat info;
  if (fstat(file.get(), &info) != 0) return Bad("IO", path, strerror(errno));
  if (info.st_size > bytes_max) {
    return Bad("IO", path, absl::StrCat("larger than ", bytes_max, " bytes"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  WEIR_RETURN_IF_ERROR(
      ReadFully(file, path, 0, std::as_writable_bytes(std::span<char>(text))));
  return text;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  SafetensorsFile out;
  out.path_ = path;
  WEIR_ASSIGN_OR_RETURN(out.file_, OpenRegularFile(path));
  struct stat info;
  if (fstat(out.file_.get(), &info) != 0) {
    return Bad("IO", path, strerror(errno));
  }
  const int64_t file_bytes = info.st_size;
  uint64_t header_bytes = 0;
  if (file_bytes < static_cast<int64_t>(sizeof(header_bytes))) {
    return Bad("HEADER_SIZE",
               path,
               absl::StrCat("a file of ", file_bytes, " bytes has no header"));
  }
  WEIR_RETURN_IF_ERROR(ReadFully(
      out.file_, path, 0, std::as_writable_bytes(std::span(&header_bytes, 1))));
  const int64_t room = file_bytes - static_cast<int64_t>(sizeof(header_bytes));
  if (header_bytes < kHeaderBytesMin || header_bytes > kHeaderBytesMax ||
      header_bytes > static_cast<uint64_t>(room)) {
    return Bad("HEADER_SIZE",
               path,
               absl::StrCat("a header of ",
                            header_bytes,
                            " bytes in a file of ",
                            file_bytes,
                            "; 8 bytes to 16 MiB can be read"));
  }
  std::string header(header_bytes, '\0');
  WEIR_RETURN_IF_ERROR(
      ReadFully(out.file_,
                path,
                sizeof(header_bytes),
                std::as_writable_bytes(std::span<char>(header))));
  const int64_t data_begin =
      static_cast<int64_t>(sizeof(header_bytes) + header_bytes);
  WEIR_ASSIGN_OR_RETURN(out.tensors_,
                        ParseHeader(header, file_bytes - data_begin, path));
  for (auto& [name, tensor] : out.tensors_) tensor.offset += data_begin;
  return out;
}

absl::Status SafetensorsFile::Read(const std::string& name,
                                   bool allow_nonfinite,
                                   std::span<float> out) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return BadTensor("MISSING_TENSOR", path_, name, "is not in the file");
  }
  const TensorInfo& info = it->second;
  if (info.elements != static_cast<int64_t>(out.size())) {
    return BadTensor(
        "WRONG_SHAPE",
        path_,
        name,
        absl::StrCat(ShapeText(info.shape), " is not ", out.size(), " values"));
  }
  std::vector<std::byte> buffer(std::min(info.bytes, kReadBytes));
  float* to = out.data();
  for (int64_t done = 0; done < info.bytes;) {
    const int64_t count = std::min(info.bytes - done, kReadBytes);
    const std::span<std::byte> part(buffer.data(), count);
    WEIR_RETURN_IF_ERROR(ReadFully(file_, path_, info.offset + done, part));
    if (!Convert(part, info.dtype, to) && !allow_nonfinite) {
      return BadTensor("NON_FINITE", path_, name, "holds a NaN or an infinity");
    }
    to += count / DtypeBytes(info.dtype);
    done += count;
  }
  return absl::OkStatus();
}

}  // namespace weir::engine
