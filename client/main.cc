// SPDX-License-Identifier: Apache-2.0
//
// The `weir` tool: see client/tool.h.
#include <cstdio>

#include "client/signals.h"
#include "client/tool.h"

int main(int argc, char** argv) {
  weir::client::Tool tool(/*input=*/0, stdout, stderr);
  const weir::client::Signals signals(tool.cancellation());
  return tool.Run(argc, argv);
}
