// SPDX-License-Identifier: Apache-2.0
//
// How a GPU's steps of one token leave a session's state.
#pragma once

namespace weir::engine {

enum class StateForm {
  kWrite,  // each step writes it
  // Each step leaves what its token adds in a ring beside it, and one in 8
  // writes it. Gated DeltaNet has this form.
  kRing,
};

}  // namespace weir::engine
