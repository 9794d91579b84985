// SPDX-License-Identifier: Apache-2.0
//
// The kernels of one set of vector instructions, a target. Each target is one
// object file, compiled with its own flags from the same headers (vector.h,
// *_kernel.h). Those keep everything in unnamed namespaces, and neither they
// nor this header use the standard library's inline functions: what one target
// emits, the linker must never give to another.
//
// Threads: the tables are constant.
#pragma once

#include <cstdint>

#include "engine/kernels/activation.h"
#include "engine/kernels/channel_gates.h"
#include "engine/kernels/favor.h"
#include "engine/kernels/mlstm.h"
#include "engine/kernels/pointwise.h"
#include "engine/kernels/recurrence.h"
#include "engine/kernels/running_sum.h"
#include "engine/kernels/rwkv.h"
#include "engine/kernels/selective_scan.h"
#include "engine/kernels/short_conv.h"
#include "engine/kernels/slots.h"
#include "engine/kernels/token_shift.h"
#include "engine/kernels/wkv.h"

namespace weir::engine {

// The functions mean what the headers above say of those with their names.
struct KernelTable {
  const char* name;

  void (*recurrent)(const RecurrenceArgs& args, int64_t begin, int64_t end);
  // The chunk form works in `scratch`, 64-byte aligned, of that many floats.
  int64_t (*chunk_scratch_floats)(const RecurrenceArgs& args);
  void (*chunk)(const RecurrenceArgs& args,
                int64_t begin,
                int64_t end,
                float* scratch);
  void (*selective_scan)(const SelectiveScanArgs& args,
                         int64_t begin,
                         int64_t end);
  void (*short_conv)(const ShortConvArgs& args, int64_t begin, int64_t end);

  void (*mlstm_values)(const MlstmValueArgs& args, int64_t begin, int64_t end);
  void (*mlstm_read)(const MlstmReadArgs& args, int64_t begin, int64_t end);

  void (*norm)(const NormArgs& args,
               TokenRows x,
               float* out,
               int64_t begin,
               int64_t end);
  void (*add_norm)(const NormArgs& args,
                   float* residual,
                   const float* x,
                   float* out,
                   int64_t begin,
                   int64_t end);
  void (*gated_norm)(const GatedNormArgs& args, int64_t begin, int64_t end);
  void (*normalize_heads)(const HeadNormArgs& args, int64_t begin, int64_t end);
  void (*silu_multiply)(TokenRows gate,
                        TokenRows up,
                        int32_t width,
                        float* out,
                        int64_t begin,
                        int64_t end);
  void (*delta_gates)(const DeltaGateArgs& args, int64_t begin, int64_t end);
  void (*time_step)(const TimeStepArgs& args, int64_t begin, int64_t end);
  void (*add_skip)(TokenRows x,
                   const float* d,
                   int32_t heads,
                   int32_t head_dim,
                   float* out,
                   int64_t begin,
                   int64_t end);
  void (*log_probabilities)(const float* logits,
                            const uint32_t* targets,
                            int32_t vocabulary,
                            float* scores,
                            int64_t begin,
                            int64_t end);
  void (*soft_cap)(float* x, int64_t count, float cap);
  bool (*all_finite)(const float* x, int64_t count);
  void (*activate)(Activation kind, float* x, int64_t count);
  void (*sigmoid_multiply)(TokenRows gate,
                           TokenRows up,
                           int32_t width,
                           float* out,
                           int64_t begin,
                           int64_t end);

  void (*shift_tokens)(const TokenShiftArgs& args, int64_t begin, int64_t end);
  void (*lerp)(const LerpArgs& args, int64_t begin, int64_t end);
  void (*rwkv7_terms)(const Rwkv7TermArgs& args, int64_t begin, int64_t end);
  void (*rwkv7_values)(const float* first,
                       const float* mix,
                       int32_t width,
                       float* v,
                       int64_t begin,
                       int64_t end);
  void (*rwkv7_bonus)(const Rwkv7BonusArgs& args, int64_t begin, int64_t end);
  void (*log_sigmoid_decays)(const LogSigmoidArgs& args,
                             int64_t begin,
                             int64_t end);
  void (*kda_gates)(const KdaGateArgs& args, int64_t begin, int64_t end);
  void (*gdn2_gates)(const Gdn2GateArgs& args, int64_t begin, int64_t end);
  void (*hgrn_gates)(const HgrnGateArgs& args, int64_t begin, int64_t end);
  void (*rwkv6_decay)(float* w, int64_t count);
  void (*wkv)(const WkvArgs& args, int64_t begin, int64_t end);

  void (*running_sum)(const RunningSumArgs& args, int64_t begin, int64_t end);
  void (*slot_gates)(const SlotGateArgs& args, int64_t begin, int64_t end);
  void (*slot_softmax)(const SlotSoftmaxArgs& args, int64_t begin, int64_t end);
  void (*favor_queries)(const FavorQueryArgs& args, int64_t begin, int64_t end);
  void (*favor_keys)(const FavorKeyArgs& args, int64_t begin, int64_t end);
  void (*favor_read)(const FavorReadArgs& args, int64_t begin, int64_t end);
};

// One a target file. Only the machine's own may be called through.
extern const KernelTable kBaselineKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;

}  // namespace weir::engine
