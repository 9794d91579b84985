// SPDX-License-Identifier: Apache-2.0
//
// The checkpoint families that are served, by config.json's model_type.
//
// Threads: the table is constant.
#pragma once

#include <span>

#include "engine/config/config_fields.h"
#include "engine/mixers/decoder_spec.h"

namespace weir::engine {

struct Family {
  const char* model_type;
  // Whether this family's keys are there, where several share a model_type;
  // null: it is the only one, or takes what those before it in the table leave.
  bool (*claims)(const ConfigFields& fields);
  // Fills all but `family`. What is wrong is said to `fields`.
  void (*read)(ConfigFields& fields, DecoderSpec& spec);
  // Its config.json has no model_type; it is known by its keys alone.
  bool unnamed = false;
};

std::span<const Family> Families();

}  // namespace weir::engine
