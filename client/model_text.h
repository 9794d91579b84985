// SPDX-License-Identifier: Apache-2.0
//
// What a served model's token ids are to a client.
//
// Threads: pure functions.
#pragma once

#include "weir/v1/models.pb.h"

namespace weir::client {

// Whether token ids are the bytes of a text. A server from before the field
// `tokenizer` took text for such models only.
inline bool IdsAreBytes(const v1::Model& model) {
  return model.takes_text() &&
         (model.tokenizer().empty() || model.tokenizer() == "bytes");
}

}  // namespace weir::client
