// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/source_path.h"

namespace weir::engine {

std::string SourcePath(const std::string& relative) {
  return std::string(WEIR_SOURCE_DIR) + "/" + relative;
}

}  // namespace weir::engine
