// SPDX-License-Identifier: Apache-2.0
//
// `weir session ls|show|fork|close`.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "client/client.h"
#include "client/curve.h"
#include "client/errors.h"
#include "client/format.h"
#include "client/tool.h"

namespace weir::client {
namespace {

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string StateOf(const v1::Session& session) {
  if (session.quarantined()) return "quarantined";
  if (session.generating()) return "generating";
  return session.applied_position() < session.position() ? "working" : "idle";
}

nlohmann::ordered_json ToJson(const v1::Session& session) {
  nlohmann::ordered_json json = {
      {"session_id", session.session_id()},
      {"model", session.model()},
      {"position", session.position()},
      {"applied_position", session.applied_position()},
      {"epoch", session.epoch()},
      {"state_bytes", session.state_bytes()},
      {"scored_tokens", session.scored_tokens()},
      {"sum_log_prob", session.sum_log_prob()},
      {"bits_per_token", nullptr},
      {"seed", session.seed()},
      {"idle_seconds", Seconds(session.idle())},
      {"idle_timeout_seconds", Seconds(session.idle_timeout())},
      {"state", StateOf(session)}};
  if (session.scored_tokens() > 0) {
    json["bits_per_token"] =
        BitsPerToken(session.sum_log_prob(), session.scored_tokens());
  }
  return json;
}

std::string Bits(const v1::Session& session) {
  if (session.scored_tokens() == 0) return "-";
  return FormatFixed(
      BitsPerToken(session.sum_log_prob(), session.scored_tokens()), 4);
}

absl::Status RunList(Tool& tool, bool only_ids) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  WEIR_ASSIGN_OR_RETURN(const std::vector<v1::Session> sessions,
                        client->ListSessions());
  if (tool.json()) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Session& session : sessions) list.push_back(ToJson(session));
    tool.out().Json({{"sessions", list}});
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"ID", "MODEL", "POSITION", "BITS/TOKEN", "IDLE", "STATE"}};
  for (const v1::Session& session : sessions) {
    if (only_ids) tool.out().Write(session.session_id() + "\n");
    rows.push_back({session.session_id(),
                    session.model(),
                    FormatCount(session.position()),
                    Bits(session),
                    FormatClock(absl::Seconds(Seconds(session.idle()))),
                    StateOf(session)});
  }
  if (only_ids) return absl::OkStatus();
  if (sessions.empty()) {
    tool.out().Note("no open sessions\n");
    return absl::OkStatus();
  }
  tool.out().Write(FormatTable(rows));
  return absl::OkStatus();
}

absl::Status RunShow(Tool& tool, const std::string& id) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  WEIR_ASSIGN_OR_RETURN(const v1::Session session, client->GetSession(id));
  if (tool.json()) {
    tool.out().Json(ToJson(session));
    return absl::OkStatus();
  }
  const auto line = [&](std::string_view name, const std::string& value) {
    std::string padded(name);
    padded.resize(14, ' ');
    tool.out().Write(padded + value + "\n");
  };
  line("session", session.session_id());
  line("model", session.model());
  line("position", FormatCount(session.position()) + " tokens");
  line("state",
       StateOf(session) + ", " + FormatBytes(session.state_bytes()) +
           " on the device");
  line("scored", FormatCount(session.scored_tokens()) + " tokens");
  line("bits/token", Bits(session));
  line("seed", std::to_string(session.seed()));
  line("idle",
       FormatClock(absl::Seconds(Seconds(session.idle()))) + ", closed after " +
           FormatClock(absl::Seconds(Seconds(session.idle_timeout()))));
  return absl::OkStatus();
}

struct ForkFlags {
  std::string id;
  std::string new_id;
  std::optional<uint64_t> position;
  std::optional<uint64_t> seed;
};

// After this nobody knows whether the server did what it was asked.
bool IsUnanswered(const absl::Status& status) {
  return ReasonOf(status).empty() &&
         (absl::IsDeadlineExceeded(status) || absl::IsCancelled(status));
}

absl::Status RunFork(Tool& tool, const ForkFlags& flags) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  v1::ForkRequest request;
  request.set_session_id(flags.id);
  // Issued here: a copy whose id was lost on the way would hold its slot.
  request.set_new_session_id(flags.new_id.empty() ? NewId() : flags.new_id);
  if (flags.position.has_value()) request.set_position(*flags.position);
  if (flags.seed.has_value()) request.set_seed(*flags.seed);
  const absl::StatusOr<v1::ForkReply> reply = client->Fork(request);
  if (IsUnanswered(reply.status())) {
    tool.out().Note("the server may go on with it: weir session show " +
                    request.new_session_id() + "\n");
  }
  WEIR_RETURN_IF_ERROR(reply.status());
  if (tool.json()) {
    tool.out().Json({{"session_id", reply->session_id()},
                     {"forked_from", flags.id},
                     {"position", reply->position()}});
  } else {
    tool.out().Write("session " + reply->session_id() + " is a copy of " +
                     flags.id + " at position " +
                     FormatCount(reply->position()) + "\n");
  }
  return absl::OkStatus();
}

absl::Status RunClose(Tool& tool, const std::vector<std::string>& ids) {
  WEIR_ASSIGN_OR_RETURN(Client * client, tool.Connect());
  for (const std::string& id : ids) {
    WEIR_ASSIGN_OR_RETURN(const v1::CloseSessionReply reply,
                          client->CloseSession(id));
    if (tool.json()) {
      tool.out().Json({{"session_id", id},
                       {"closed", reply.closed()},
                       {"position", reply.position()}});
    } else if (reply.closed()) {
      tool.out().Write("session " + id + " closed at position " +
                       FormatCount(reply.position()) + "\n");
    } else {
      tool.out().Write("session " + id + " was not open\n");
    }
  }
  return absl::OkStatus();
}

void AddFork(CLI::App& session, Tool& tool) {
  CLI::App* command =
      session.add_subcommand("fork", "Copy a session, state and log");
  auto flags = std::make_shared<ForkFlags>();
  command->add_option("id", flags->id, "The session")
      ->type_name("ID")
      ->required();
  command->add_option("new", flags->new_id, "The copy's id; without it: issued")
      ->type_name("NEW");
  command
      ->add_option("--position",
                   flags->position,
                   "Fork at an earlier position than the end")
      ->type_name("N");
  command->add_option("--seed", flags->seed, "The copy's seed")->type_name("N");
  command->callback([flags, &tool] {
    tool.set_command([flags, &tool] { return RunFork(tool, *flags); });
  });
}

}  // namespace

void AddSessionCommand(CLI::App& app, Tool& tool) {
  CLI::App* session =
      app.add_subcommand("session", "List, show, fork and close sessions");
  session->require_subcommand(1);

  CLI::App* list = session->add_subcommand("ls", "List the open sessions");
  auto only_ids = std::make_shared<bool>(false);
  list->add_flag("--ids", *only_ids, "Ids only, one a line");
  list->callback([only_ids, &tool] {
    tool.set_command([only_ids, &tool] { return RunList(tool, *only_ids); });
  });

  CLI::App* show = session->add_subcommand("show", "Show one session");
  auto id = std::make_shared<std::string>();
  show->add_option("id", *id, "The session")->type_name("ID")->required();
  show->callback([id, &tool] {
    tool.set_command([id, &tool] { return RunShow(tool, *id); });
  });

  AddFork(*session, tool);

  CLI::App* close = session->add_subcommand(
      "close", "Close sessions; their states and logs are deleted");
  auto ids = std::make_shared<std::vector<std::string>>();
  close->add_option("id", *ids, "The sessions")->type_name("ID")->required();
  close->callback([ids, &tool] {
    tool.set_command([ids, &tool] { return RunClose(tool, *ids); });
  });
}

}  // namespace weir::client
