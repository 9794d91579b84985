// SPDX-License-Identifier: Apache-2.0
//
// The whole server on a FakeEngine, in this process, on free ports of
// 127.0.0.1. The clock stands still unless a test moves it.
//
// Threads: the test's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "server/http_page.h"
#include "server/metrics.h"
#include "server/server.h"
#include "service/service.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"
#include "weir/v1/admin.grpc.pb.h"
#include "weir/v1/models.grpc.pb.h"
#include "weir/v1/sessions.grpc.pb.h"

namespace weir::integration {

inline constexpr const char* kModelName = "fake-model";

class ServerFixture : public ::testing::Test {
 protected:
  struct Options {
    support::FakeEngine::Options engine = {};
    service::Limits limits = {};
    int32_t connections_max = 256;
  };

  ServerFixture() : ServerFixture(Options()) {}
  explicit ServerFixture(Options options);
  ~ServerFixture() override;

  uint16_t port() const { return server_->address().port; }
  std::shared_ptr<grpc::Channel> Connect() const;
  // Opens a session and gives it these tokens.
  void Open(const std::string& id, const std::string& bytes);
  // All sessions as text, and the state of every slot.
  std::string Sessions();
  // The value of a metric; -1 if the page has none of this name and labels.
  double Metric(const std::string& name_and_labels) const;
  // A GET of the page for operators: status line, headers and body.
  std::string Get(const std::string& path) const;
  // Waits for at most 10 s.
  static bool Eventually(const std::function<bool()>& condition);

  support::FakeClock clock_;
  server::Metrics metrics_;
  std::atomic<bool> ready_ = true;
  std::unique_ptr<server::HttpPage> page_;
  support::FakeEngine* engine_ = nullptr;  // owned by the service
  std::unique_ptr<service::Service> service_;
  std::unique_ptr<server::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Models::Stub> models_;
};

v1::AppendRequest MakeAppend(const std::string& id,
                             uint64_t position,
                             const std::string& bytes);

// ErrorInfo.reason of the details; empty if there is none.
std::string ReasonOf(const grpc::Status& status);
std::string ReasonIn(const std::string& details);

}  // namespace weir::integration
