// SPDX-License-Identifier: Apache-2.0
#include "server/http_page.h"

#include <CivetServer.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace weir::server {
namespace {

struct Page {
  int code = 200;
  const char* type = "text/plain; charset=utf-8";
  std::string body;
};

class PageHandler final : public CivetHandler {
 public:
  explicit PageHandler(std::function<Page()> make) : make_(std::move(make)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const Page page = make_();
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
              "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
              page.code,
              page.code == 200 ? "OK" : "Service Unavailable",
              page.type,
              page.body.size());
    mg_write(connection, page.body.data(), page.body.size());
    return true;
  }

 private:
  const std::function<Page()> make_;
};

// What CivetWeb said last on this thread: why it could not begin.
std::string& LastMessage() {
  thread_local std::string message;
  return message;
}

int TakeMessage(const mg_connection*, const char* message) {
  LastMessage() = message;
  return 1;  // it need not write it
}

absl::Status CannotListen(const Address& address) {
  std::string sentence =
      absl::StrCat("--metrics-listen: cannot listen on ", address.text());
  if (!LastMessage().empty()) absl::StrAppend(&sentence, ": ", LastMessage());
  return absl::UnavailableError(sentence);
}

constexpr int kKnocksMax = 100;

// Connects and waits for the other side to close, at most 50 ms.
void Knock(const Address& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  sockaddr_in6 to6{};
  sockaddr_in to4{};
  to6.sin6_family = AF_INET6;
  to6.sin6_port = to4.sin_port = htons(address.port);
  to4.sin_family = AF_INET;
  inet_pton(AF_INET6, address.host.c_str(), &to6.sin6_addr);
  inet_pton(AF_INET, address.host.c_str(), &to4.sin_addr);
  const int socket =
      ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return;
  const int connected =
      v6 ? connect(socket, reinterpret_cast<sockaddr*>(&to6), sizeof to6)
         : connect(socket, reinterpret_cast<sockaddr*>(&to4), sizeof to4);
  pollfd wait{socket, POLLIN, 0};
  if (connected == 0) poll(&wait, 1, 50);
  close(socket);
}

}  // namespace

struct HttpPage::Handlers {
  PageHandler metrics;
  PageHandler health;
  PageHandler ready;
};

HttpPage::HttpPage() = default;

// CivetWeb sees that it is to end when somebody connects, or after 2 s.
HttpPage::~HttpPage() {
  if (server_ == nullptr) return;
  std::atomic<bool> closed = false;
  std::thread closer([&] {
    server_->close();
    closed = true;
    closed.notify_all();
  });
  for (int n = 0; n < kKnocksMax && !closed; ++n) Knock(numeric_);
  closed.wait(false);
  closer.join();
}

absl::StatusOr<std::unique_ptr<HttpPage>> HttpPage::Create(
    const Address& address,
    const Metrics& metrics,
    std::function<bool()> ready) {
  std::unique_ptr<HttpPage> page(new HttpPage);
  page->handlers_ = std::make_unique<Handlers>(Handlers{
      PageHandler([&metrics] {
        return Page{
            200, "text/plain; version=0.0.4; charset=utf-8", metrics.Page()};
      }),
      PageHandler([] { return Page{.body = "alive\n"}; }),
      PageHandler([ready = std::move(ready)] {
        return ready() ? Page{.body = "ready\n"}
                       : Page{.code = 503, .body = "not ready\n"};
      })});
  // CivetWeb takes addresses, not names.
  Address& numeric = page->numeric_;
  numeric = address;
  if (numeric.host == "localhost") numeric.host = "127.0.0.1";
  const std::vector<std::string> options = {"listening_ports",
                                            numeric.text(),
                                            "num_threads",
                                            "2",
                                            "request_timeout_ms",
                                            "10000",
                                            "enable_keep_alive",
                                            "no"};
  CivetCallbacks callbacks;
  callbacks.log_message = TakeMessage;
  LastMessage().clear();
  try {
    page->server_ = std::make_unique<CivetServer>(options, &callbacks);
  } catch (const CivetException& error) {
    if (LastMessage().empty()) LastMessage() = error.what();
    return CannotListen(address);
  }
  const std::vector<int> ports = page->server_->getListeningPorts();
  if (ports.empty()) return CannotListen(address);
  numeric.port = static_cast<uint16_t>(ports.front());
  page->address_ = {address.host, numeric.port};
  page->server_->addHandler("/metrics", page->handlers_->metrics);
  page->server_->addHandler("/healthz", page->handlers_->health);
  page->server_->addHandler("/readyz", page->handlers_->ready);
  return page;
}

}  // namespace weir::server
