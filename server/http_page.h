// SPDX-License-Identifier: Apache-2.0
//
// The pages for operators, over plain HTTP: /metrics, /healthz (the process
// answers) and /readyz (503 unless it can take work).
//
// Threads: two of its own answer; `ready` is called on them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/metrics.h"

class CivetServer;

namespace weir::server {

class HttpPage {
 public:
  // UNAVAILABLE if the address cannot be had. `metrics` outlives the page.
  static absl::StatusOr<std::unique_ptr<HttpPage>> Create(
      const Address& address,
      const Metrics& metrics,
      std::function<bool()> ready);
  ~HttpPage();

  // Where it listens; the port is the real one.
  const Address& address() const { return address_; }

 private:
  struct Handlers;

  HttpPage();

  Address address_;
  Address numeric_;
  std::unique_ptr<Handlers> handlers_;  // outlives server_
  std::unique_ptr<CivetServer> server_;
};

}  // namespace weir::server
