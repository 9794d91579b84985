// SPDX-License-Identifier: Apache-2.0
//
// Passing a Status up in one line.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define WEIR_RETURN_IF_ERROR(expression)                              \
  do {                                                                \
    if (absl::Status weir_status = (expression); !weir_status.ok()) { \
      return weir_status;                                             \
    }                                                                 \
  } while (false)

#define WEIR_CONCAT_INNER(a, b) a##b
#define WEIR_CONCAT(a, b) WEIR_CONCAT_INNER(a, b)
#define WEIR_ASSIGN_OR_RETURN(target, expression) \
  WEIR_ASSIGN_OR_RETURN_AS(                       \
      WEIR_CONCAT(weir_statusor_, __LINE__), target, expression)
#define WEIR_ASSIGN_OR_RETURN_AS(statusor, target, expression) \
  auto statusor = (expression);                                \
  if (!statusor.ok()) return std::move(statusor).status();     \
  target = *std::move(statusor)
