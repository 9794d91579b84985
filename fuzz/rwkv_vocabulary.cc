// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as RWKV's vocabulary; then what was read encodes the same bytes,
// and they must come back.
#include "text/rwkv_vocabulary.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto read = weir::text::RwkvVocabulary::Parse(file, 65536);
  if (!read.ok()) return 0;
  std::vector<uint32_t> ids;
  const bool whole = read->Encode(file, ids).ok();
  std::string back;
  for (uint32_t id : ids) back += read->Bytes(id);
  if (!file.starts_with(back) || (whole && back != file)) std::abort();
  return 0;
}
