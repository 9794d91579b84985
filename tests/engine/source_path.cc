// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/source_path.h"

#include <cstdlib>

namespace weir::engine {

std::string SourcePath(const std::string& relative) {
  // Where the source lies if that is not where it was built.
  const char* moved = std::getenv("TEST_SOURCE_DIR");
  return std::string(moved != nullptr ? moved : WEIR_SOURCE_DIR) + "/" +
         relative;
}

}  // namespace weir::engine
