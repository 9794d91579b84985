// SPDX-License-Identifier: Apache-2.0
//
// Which build this is; set by server/CMakeLists.txt.
//
// Threads: constants.
#pragma once

namespace weir::server {

inline constexpr const char* kVersion = WEIR_VERSION;
inline constexpr const char* kRevision = WEIR_REVISION;

}  // namespace weir::server
