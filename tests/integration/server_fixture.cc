// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/server_fixture.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "store/memory_store.h"

namespace weir::integration {

ServerFixture::ServerFixture(Options options) : metrics_(server::RpcNames()) {
  auto engine = std::make_unique<support::FakeEngine>(options.engine);
  engine_ = engine.get();
  server::Served served{.name = kModelName,
                        .model = engine->model(),
                        .limits = options.limits,
                        .durability = {service::Durability::kApplied},
                        .tokenizer = text::Tokenizer()};
  metrics_.SetServed(served);
  auto page = server::HttpPage::Create(
      {"127.0.0.1", 0}, metrics_, [this] { return ready_.load(); });
  EXPECT_TRUE(page.ok()) << page.status();
  page_ = *std::move(page);
  auto service =
      service::Service::Create({.engine = std::move(engine),
                                .store = std::make_unique<store::MemoryStore>(),
                                .clock = &clock_,
                                .observer = &metrics_},
                               options.limits);
  EXPECT_TRUE(service.ok()) << service.status();
  service_ = *std::move(service);
  auto server =
      server::Server::Create({.service = service_.get(),
                              .metrics = &metrics_,
                              .clock = &clock_,
                              .served = served},
                             {.listen = {"127.0.0.1", 0},
                              .admin_listen = server::Address{"127.0.0.1", 0},
                              .connections_max = options.connections_max});
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  server_->SetReady(true);
  channel_ = Connect();
  sessions_ = v1::Sessions::NewStub(channel_);
  models_ = v1::Models::NewStub(channel_);
}

ServerFixture::~ServerFixture() {
  sessions_.reset();
  models_.reset();
  channel_.reset();
  server_.reset();
  service_.reset();
}

std::shared_ptr<grpc::Channel> ServerFixture::Connect() const {
  grpc::ChannelArguments arguments;
  // A connection of its own for each.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port()),
                                   grpc::InsecureChannelCredentials(),
                                   arguments);
}

void ServerFixture::Open(const std::string& id, const std::string& bytes) {
  v1::OpenSessionRequest open;
  open.set_session_id(id);
  open.set_model(kModelName);
  open.set_seed(1);
  v1::OpenSessionReply opened;
  grpc::ClientContext opening;
  const grpc::Status status = sessions_->OpenSession(&opening, open, &opened);
  ASSERT_TRUE(status.ok()) << status.error_message();
  v1::AppendReply reply;
  grpc::ClientContext appending;
  const grpc::Status appended =
      sessions_->Append(&appending, MakeAppend(id, 0, bytes), &reply);
  ASSERT_TRUE(appended.ok()) << appended.error_message();
}

std::string ServerFixture::Sessions() {
  grpc::ClientContext context;
  v1::ListSessionsReply reply;
  const grpc::Status status =
      sessions_->ListSessions(&context, v1::ListSessionsRequest(), &reply);
  std::string text = reply.DebugString() + status.error_message();
  for (int32_t slot : engine_->held()) {
    absl::StrAppend(&text,
                    slot,
                    ": ",
                    engine_->hash(slot),
                    " after ",
                    engine_->consumed(slot),
                    "\n");
  }
  return text;
}

double ServerFixture::Metric(const std::string& name_and_labels) const {
  std::istringstream page(metrics_.Page());
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with(name_and_labels + " ")) {
      return std::stod(line.substr(name_and_labels.size() + 1));
    }
  }
  return -1;
}

std::string ServerFixture::Get(const std::string& path) const {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(page_->address().port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string reply;
  if (connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) ==
      0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: test\r\n\r\n");
    send(socket, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    for (ssize_t n; (n = recv(socket, buffer, sizeof buffer, 0)) > 0;) {
      reply.append(buffer, static_cast<size_t>(n));
    }
  }
  close(socket);
  return reply;
}

// A condition variable that nobody notifies: the wait is bounded and short.
bool ServerFixture::Eventually(const std::function<bool()>& condition) {
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    never.wait_for(lock, std::chrono::milliseconds(2));
  }
  return true;
}

v1::AppendRequest MakeAppend(const std::string& id,
                             uint64_t position,
                             const std::string& bytes) {
  v1::AppendRequest request;
  request.set_session_id(id);
  request.set_expected_position(position);
  for (char c : bytes) request.add_tokens(static_cast<uint8_t>(c));
  request.set_want_scores(true);
  return request;
}

std::string ReasonOf(const grpc::Status& status) {
  return ReasonIn(status.error_details());
}

std::string ReasonIn(const std::string& details) {
  google::rpc::Status status;
  google::rpc::ErrorInfo info;
  if (!status.ParseFromString(details)) return "unreadable";
  for (const google::protobuf::Any& any : status.details()) {
    if (any.UnpackTo(&info)) return info.reason();
  }
  return "";
}

}  // namespace weir::integration
