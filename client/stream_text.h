// SPDX-License-Identifier: Apache-2.0
//
// Feeds a long text to a session whose model's tokenizer is at the server. Only
// an answer says how many tokens a text became, so that one append follows
// another, each at the position that the last one ended at: sent again after a
// lost answer it is compared, as tokens are.
//
// Threads: runs on its caller's thread, the callbacks too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/session.h"
#include "client/stream_append.h"

namespace weir::client {

// The bytes of the block that `text` begins with: all of it, or at most
// `bytes_max`, to the end of a line or, if there is none, of a character.
// REQUIRES: `text` is UTF-8, bytes_max >= 4.
size_t TextBlockBytes(std::string_view text, size_t bytes_max);

struct StreamTextOptions {
  size_t block_bytes = 8192;  // of one append, at most
  bool want_scores = true;
};

// `bytes`: of the text, answered so far.
using OnTextAppended =
    std::function<void(const AppendedPart& part, uint64_t bytes)>;

// Appends all that `source` gives, each token a byte. Lines that are whole are
// sent when it has nothing more for now. INVALID_ARGUMENT with the byte where
// the text stops being UTF-8; what stands before that block has been appended.
absl::StatusOr<StreamTotals> StreamText(Session& session,
                                        const StreamTextOptions& options,
                                        const TokenSource& source,
                                        const OnTextAppended& on_appended);

}  // namespace weir::client
