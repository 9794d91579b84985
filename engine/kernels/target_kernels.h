// SPDX-License-Identifier: Apache-2.0
//
// Every kernel of one target, as a table; the last include of a target file.
//
// Threads: plain functions.
#pragma once

#include "engine/kernels/activation_kernel.h"
#include "engine/kernels/channel_chunk_kernel.h"
#include "engine/kernels/channel_gates_kernel.h"
#include "engine/kernels/channel_recurrent_kernel.h"
#include "engine/kernels/chunk_kernel.h"
#include "engine/kernels/favor_kernel.h"
#include "engine/kernels/kernel_table.h"
#include "engine/kernels/mlstm_kernel.h"
#include "engine/kernels/norm_kernel.h"
#include "engine/kernels/pointwise_kernel.h"
#include "engine/kernels/recurrent_kernel.h"
#include "engine/kernels/running_sum_kernel.h"
#include "engine/kernels/rwkv_kernel.h"
#include "engine/kernels/selective_scan_kernel.h"
#include "engine/kernels/short_conv_kernel.h"
#include "engine/kernels/slots_kernel.h"
#include "engine/kernels/summed_recurrent_kernel.h"
#include "engine/kernels/token_shift_kernel.h"
#include "engine/kernels/wkv_kernel.h"

namespace weir::engine {
namespace {

void Recurrent(const RecurrenceArgs& args, int64_t begin, int64_t end) {
  if (args.rest != nullptr) {
    SummedRecurrent(args, begin, end);
  } else if (args.decay == DecayKind::kHead) {
    HeadDecayRecurrent(args, begin, end);
  } else {
    ChannelRecurrent(args, begin, end);
  }
}

int64_t ChunkScratchFloats(const RecurrenceArgs& args) {
  return args.decay == DecayKind::kHead ? LayOut(args).floats
                                        : ChannelLayOut(args).floats;
}

void Chunk(const RecurrenceArgs& args,
           int64_t begin,
           int64_t end,
           float* scratch) {
  if (args.decay == DecayKind::kHead) {
    HeadDecayChunk(args, begin, end, scratch);
  } else {
    ChannelChunk(args, begin, end, scratch);
  }
}

constexpr KernelTable TargetKernels(const char* name) {
  return {
      .name = name,
      .recurrent = Recurrent,
      .chunk_scratch_floats = ChunkScratchFloats,
      .chunk = Chunk,
      .selective_scan = Scan,
      .short_conv = Convolve,
      .mlstm_values = MlstmValueRows,
      .mlstm_read = MlstmReadRows,
      .norm = NormRows,
      .add_norm = AddNormRows,
      .gated_norm = GatedNormRows,
      .normalize_heads = NormalizeHeadRows,
      .silu_multiply = SiluMultiplyRows,
      .delta_gates = DeltaGateRows,
      .time_step = TimeStepRows,
      .add_skip = AddSkipRows,
      .log_probabilities = LogProbabilityRows,
      .soft_cap = SoftCapAll,
      .all_finite = IsAllFinite,
      .activate = ActivateAll,
      .sigmoid_multiply = SigmoidMultiplyRows,
      .shift_tokens = ShiftRows,
      .lerp = LerpRows,
      .rwkv7_terms = Rwkv7TermRows,
      .rwkv7_values = Rwkv7ValueRows,
      .rwkv7_bonus = Rwkv7BonusRows,
      .log_sigmoid_decays = LogSigmoidDecayRows,
      .kda_gates = KdaGateRows,
      .gdn2_gates = Gdn2GateRows,
      .hgrn_gates = HgrnGateRows,
      .rwkv6_decay = Rwkv6DecayAll,
      .wkv = WkvItems,
      .running_sum = RunningSumItems,
      .slot_gates = SlotGateRows,
      .slot_softmax = SlotSoftmaxRows,
      .favor_queries = FavorQueryRows,
      .favor_keys = FavorKeyItems,
      .favor_read = FavorReadRows,
  };
}

}  // namespace
}  // namespace weir::engine
