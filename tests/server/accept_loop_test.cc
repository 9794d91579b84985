// SPDX-License-Identifier: Apache-2.0
#include "server/accept_loop.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#include "gtest/gtest.h"

namespace weir::server {
namespace {

int Connect(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  timeval limit{10, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(
      connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address),
      0);
  return socket;
}

class AcceptLoopTest : public ::testing::Test {
 protected:
  void Start(int connections_max) {
    auto loop = AcceptLoop::Create({.address = {"127.0.0.1", 0},
                                    .connections_max = connections_max,
                                    .on_connection =
                                        [this](int, int connection) {
                                          const std::lock_guard lock(mutex_);
                                          taken_.push_back(connection);
                                          changed_.notify_all();
                                        },
                                    .on_count = [](int64_t) {},
                                    .on_refused =
                                        [this] {
                                          const std::lock_guard lock(mutex_);
                                          ++refused_;
                                          changed_.notify_all();
                                        }});
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    loop_->Start();
  }
  bool Wait(size_t taken, int refused) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] {
      return taken_.size() == taken && refused_ == refused;
    });
  }
  ~AcceptLoopTest() override {
    loop_.reset();
    for (int connection : taken_) close(connection);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> taken_;
  int refused_ = 0;
  std::unique_ptr<AcceptLoop> loop_;
};

TEST_F(AcceptLoopTest, AConnectionTooManyIsClosedAtOnceAndRoomComesBack) {
  Start(2);
  const uint16_t port = loop_->address().port;
  const int first = Connect(port);
  const int second = Connect(port);
  ASSERT_TRUE(Wait(2, 0));

  const int third = Connect(port);
  ASSERT_TRUE(Wait(2, 1));
  char byte;
  EXPECT_EQ(recv(third, &byte, 1, 0), 0);

  // The taker closes one, as gRPC does, and tells nobody.
  {
    const std::lock_guard lock(mutex_);
    close(taken_.back());
    taken_.pop_back();
  }
  const int fourth = Connect(port);
  EXPECT_TRUE(Wait(2, 1));
  for (int socket : {first, second, third, fourth}) close(socket);
}

TEST_F(AcceptLoopTest, APortInUseIsRefusedWithItsAddress) {
  Start(1);

  const auto again = AcceptLoop::Create({.address = loop_->address(),
                                         .connections_max = 1,
                                         .on_connection = {},
                                         .on_count = {},
                                         .on_refused = {}});

  EXPECT_EQ(again.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(again.status().message()).find(loop_->address().text()),
            std::string::npos);
}

TEST_F(AcceptLoopTest, AfterStopNothingIsTaken) {
  Start(4);
  loop_->Stop();

  const int socket = Connect(loop_->address().port);

  EXPECT_TRUE(Wait(0, 0));
  close(socket);
}

}  // namespace
}  // namespace weir::server
