// SPDX-License-Identifier: Apache-2.0
//
// What a token of one head is made of where a decay is one a channel.
//
// Threads: plain functions. Included by the target files only.
#pragma once

#include "engine/kernels/recurrence.h"
#include "engine/kernels/vector.h"

namespace weir::engine {
namespace {

struct ChannelToken {
  const float* q;
  const float* k;
  const float* v;
  const float* a;
  const float* b;
  float* out;
  float beta;
  float bonus;  // q . (bonus k)
};

// What is added to the decayed state beside k v^T.
enum class Correction { kNone, kAlongKey, kGeneral };

WEIR_INLINE const float* ChannelDecayOf(const RecurrenceArgs& args,
                                        int64_t t,
                                        int64_t head) {
  const int64_t channels =
      args.decay == DecayKind::kKey ? args.key_dim : args.value_dim;
  return args.log2_decay.data + t * args.log2_decay.stride + head * channels;
}

ChannelToken ChannelTokenOf(const RecurrenceArgs& args,
                            int64_t t,
                            int64_t head) {
  const int64_t key_head = head / (args.heads / args.key_heads);
  const int64_t keys = head * args.key_dim;
  const int64_t values = head * args.value_dim;
  ChannelToken token;
  token.q = args.q.data + t * args.q.stride + key_head * args.key_dim;
  token.k = args.k.data + t * args.k.stride + key_head * args.key_dim;
  token.v = args.v.data + t * args.v.stride + values;
  const auto correction = [&](const TokenRows& rows) {
    return rows.data == nullptr ? nullptr : rows.data + t * rows.stride + keys;
  };
  token.a = correction(args.a);
  token.b = correction(args.b);
  token.beta = args.beta.data == nullptr
                   ? 1
                   : args.beta.data[t * args.beta.stride + head];
  token.out = args.out + t * args.out_stride + values;
  token.bonus = 0;
  if (args.read == ReadOrder::kAfterWrite) return token;
  Vec sum = {};
  ForVectors(args.key_dim, [&](int i, int n) {
    const Vec kept = LoadN(args.bonus + keys + i, n) * LoadN(token.k + i, n);
    sum = Fma(LoadN(token.q + i, n), kept, sum);
  });
  token.bonus = SumLanes(sum);
  return token;
}

}  // namespace
}  // namespace weir::engine
