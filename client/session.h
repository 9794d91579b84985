// SPDX-License-Identifier: Apache-2.0
//
// Session: one stream of tokens at a server, as an object. It keeps the
// position, so that every append is exactly-once, and closes the session when
// it goes, unless it was detached.
//
// Threads: one at a time. The client must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/generation.h"
#include "client/stream_append.h"

namespace weir::client {

struct AppendOptions {
  bool want_scores = false;
  v1::Durability durability = v1::DURABILITY_UNSPECIFIED;
};

// The session once all it has accepted is in its state and no generation runs:
// only then do its totals belong to its position. A quarantined one as it is:
// nothing more will be applied. DEADLINE_EXCEEDED if there is no progress
// within the client's call_deadline.
absl::StatusOr<v1::Session> GetSettled(Client& client,
                                       std::string_view session_id);

class Session {
 public:
  // Opens a session, or takes hold of the open one of that id. An empty
  // session_id is filled in here, so that opening can be tried again.
  static absl::StatusOr<Session> Open(Client& client,
                                      v1::OpenSessionRequest request);
  // Takes hold of an open session; NOT_FOUND if it is not. It starts detached.
  static absl::StatusOr<Session> Attach(Client& client,
                                        std::string_view session_id);

  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;
  // Closes it at the server unless detached; an error then is dropped (the
  // server closes idle sessions by itself).
  ~Session();

  const std::string& id() const { return id_; }
  const std::string& model() const { return model_; }
  uint64_t position() const { return position_; }

  absl::StatusOr<v1::AppendReply> Append(std::span<const uint32_t> tokens,
                                         const AppendOptions& options = {});
  absl::StatusOr<v1::AppendReply> AppendText(std::string_view text,
                                             const AppendOptions& options = {});
  // See client/stream_append.h; from this session's position.
  absl::StatusOr<StreamTotals> Stream(const StreamAppendOptions& options,
                                      const TokenSource& source,
                                      const OnAppended& on_appended);
  // See client/generation.h; session and position are filled in.
  absl::StatusOr<GenerationEnd> Generate(v1::GenerateRequest request,
                                         const OnGenerated& on_generated);
  // A copy at the current position; an empty id is filled in here.
  absl::StatusOr<Session> Fork(std::string_view new_session_id = {});

  // Takes the server's position again, after a call whose end is not known:
  // an interrupted generation finishes its token in hand. Waits for that.
  absl::Status Refresh();
  // Leaves the session open when this object goes.
  void Detach() { close_on_destruction_ = false; }
  absl::Status Close();

 private:
  Session(Client* client, std::string id, std::string model, uint64_t position);
  absl::StatusOr<v1::AppendReply> Send(v1::AppendRequest request,
                                       const AppendOptions& options);

  Client* client_;
  std::string id_;
  std::string model_;
  uint64_t position_;
  bool close_on_destruction_ = true;
};

}  // namespace weir::client
