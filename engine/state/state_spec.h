// SPDX-License-Identifier: Apache-2.0
//
// What a session holds on a device: a list of named tensors, declared by the
// mixers and laid out by StatePool, which knows nothing else about them.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weir::engine {

enum class StateKind { kFixed, kBounded, kGrowing };
enum class StateStart { kZero, kParam, kCopyOnWrite };

// One fp32 tensor of a session's state.
struct StateTensor {
  std::string name;            // for example "layers.3.recurrent"
  std::vector<int64_t> shape;  // one session's, without the slot axis
  StateKind kind = StateKind::kFixed;
  StateStart start = StateStart::kZero;
  // What a kZero start begins with where zero is not neutral: a maximum.
  float fill = 0;

  // Product of the shape; 0 if it is empty, negative or overflows.
  int64_t elements() const;
};

struct StateSpec {
  std::vector<StateTensor> tensors;

  // Bytes of one session's state, without padding.
  int64_t bytes() const;
};

}  // namespace weir::engine
