// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/pointwise.h"

#include "engine/kernels/kernel_target.h"

namespace weir::engine {

void Norm(
    const NormArgs& args, TokenRows x, float* out, int64_t begin, int64_t end) {
  Kernels().norm(args, x, out, begin, end);
}

void AddNorm(const NormArgs& args,
             float* residual,
             const float* x,
             float* out,
             int64_t begin,
             int64_t end) {
  Kernels().add_norm(args, residual, x, out, begin, end);
}

void GatedNorm(const GatedNormArgs& args, int64_t begin, int64_t end) {
  Kernels().gated_norm(args, begin, end);
}

void NormalizeHeads(const HeadNormArgs& args, int64_t begin, int64_t end) {
  Kernels().normalize_heads(args, begin, end);
}

void SiluMultiply(TokenRows gate,
                  TokenRows up,
                  int32_t width,
                  float* out,
                  int64_t begin,
                  int64_t end) {
  Kernels().silu_multiply(gate, up, width, out, begin, end);
}

void DeltaGates(const DeltaGateArgs& args, int64_t begin, int64_t end) {
  Kernels().delta_gates(args, begin, end);
}

void TimeStep(const TimeStepArgs& args, int64_t begin, int64_t end) {
  Kernels().time_step(args, begin, end);
}

void AddSkip(TokenRows x,
             const float* d,
             int32_t heads,
             int32_t head_dim,
             float* out,
             int64_t begin,
             int64_t end) {
  Kernels().add_skip(x, d, heads, head_dim, out, begin, end);
}

void LogProbabilities(const float* logits,
                      const uint32_t* targets,
                      int32_t vocabulary,
                      float* scores,
                      int64_t begin,
                      int64_t end) {
  Kernels().log_probabilities(logits, targets, vocabulary, scores, begin, end);
}

void SoftCap(float* x, int64_t count, float cap) {
  Kernels().soft_cap(x, count, cap);
}

bool AllFinite(const float* x, int64_t count) {
  return Kernels().all_finite(x, count);
}

}  // namespace weir::engine
