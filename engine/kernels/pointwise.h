// SPDX-License-Identifier: Apache-2.0
//
// What stands between the matrix products: norms, gates and activations, each
// one pass over its tokens, fp32.
//
// Threads: none of their own. A call does tokens [begin, end); disjoint ranges
// may run in parallel. In and out may be the same array where noted.
#pragma once

#include <cstdint>

#include "engine/kernels/recurrence.h"

namespace weir::engine {

// y / sqrt(mean(y^2) + eps) * weight + bias, where y is x, or x less its mean
// if `centered` (LayerNorm).
struct NormArgs {
  int32_t width = 0;
  const float* weight = nullptr;  // [width]
  const float* bias = nullptr;    // [width] or nullptr
  float eps = 0;
  bool centered = false;
};

// x [T][width], contiguous out [T, width]; may alias.
void Norm(
    const NormArgs& args, TokenRows x, float* out, int64_t begin, int64_t end);

// residual_t += x_t, then out_t = Norm(residual_t). residual, x, out
// [T, width], contiguous.
void AddNorm(const NormArgs& args,
             float* residual,
             const float* x,
             float* out,
             int64_t begin,
             int64_t end);

enum class GateKind { kNone, kSilu, kSigmoid };
enum class GateOrder { kAfterNorm, kBeforeNorm };

// The gated norm at the end of a mixer, over groups of `width` channels:
//   kAfterNorm:  out = norm(x) * g(z)      (Gated DeltaNet)
//   kBeforeNorm: out = norm(x * g(z))      (Mamba-2)
// with the norm of NormArgs. weight and bias [width] are shared by the groups
// if shared_weight, else [groups, width]; without a weight it is 1.
struct GatedNormArgs {
  int32_t groups = 0;
  int32_t width = 0;
  TokenRows x;  // [T][groups, width]
  TokenRows z;  // [T][groups, width]; unused if kNone
  const float* weight = nullptr;
  const float* bias = nullptr;
  bool shared_weight = false;
  float eps = 0;
  bool centered = false;
  GateKind gate = GateKind::kSilu;
  GateOrder order = GateOrder::kAfterNorm;
  float* out = nullptr;  // [T, groups, width], contiguous; may alias x
};
void GatedNorm(const GatedNormArgs& args, int64_t begin, int64_t end);

// Each head of x to norm one, times scale, in place:
//   kL2: x * scale / sqrt(sum x^2 + eps)
//   kL1: x * scale / max(sum |x|, eps)
enum class HeadNorm { kL2, kL1 };
struct HeadNormArgs {
  HeadNorm norm = HeadNorm::kL2;
  int32_t heads = 0;
  int32_t dim = 0;
  float* x = nullptr;  // [T][heads, dim]
  int64_t stride = 0;  // floats between two tokens
  float eps = 0;
  float scale = 1;
};
void NormalizeHeads(const HeadNormArgs& args, int64_t begin, int64_t end);

// out = silu(gate) * up, or silu(gate) without an up (data == nullptr). gate
// and up [T][width]; out [T, width], contiguous.
void SiluMultiply(TokenRows gate,
                  TokenRows up,
                  int32_t width,
                  float* out,
                  int64_t begin,
                  int64_t end);

// Gated DeltaNet's gates, per head:
//   log2_decay = -exp(a_log) softplus(a + dt_bias) log2(e)
//   beta       = beta_scale sigmoid(b)
struct DeltaGateArgs {
  int32_t heads = 0;
  TokenRows a;                     // [T][heads]
  TokenRows b;                     // [T][heads]
  const float* a_log = nullptr;    // [heads]
  const float* dt_bias = nullptr;  // [heads]
  float beta_scale = 1;            // 2 where negative eigenvalues are allowed
  float* log2_decay = nullptr;     // [T, heads], contiguous
  float* beta = nullptr;           // [T, heads], contiguous
};
void DeltaGates(const DeltaGateArgs& args, int64_t begin, int64_t end);

// Mamba-2's time step, per head, and the value that it writes:
//   dt         = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max)
//   log2_decay = -exp(a_log) dt log2(e)
//   v          = dt x
struct TimeStepArgs {
  int32_t heads = 0;
  int32_t head_dim = 0;            // P
  TokenRows dt;                    // [T][heads], raw
  TokenRows x;                     // [T][heads, P]
  const float* a_log = nullptr;    // [heads]
  const float* dt_bias = nullptr;  // [heads]
  float dt_min = 0;
  float dt_max = 0;
  float* log2_decay = nullptr;  // [T, heads], contiguous
  float* v = nullptr;           // [T, heads, P], contiguous
};
void TimeStep(const TimeStepArgs& args, int64_t begin, int64_t end);

// out += d x, per head: Mamba-2's skip. x [T][heads, P]; out [T, heads, P].
void AddSkip(TokenRows x,
             const float* d,  // [heads]
             int32_t heads,
             int32_t head_dim,
             float* out,
             int64_t begin,
             int64_t end);

// scores_t = log_softmax(logits_t)[targets_t], the sum in fp64. logits
// [T, vocabulary], contiguous. NaN if a logit is not finite.
void LogProbabilities(const float* logits,
                      const uint32_t* targets,  // [T]
                      int32_t vocabulary,
                      float* scores,  // [T]
                      int64_t begin,
                      int64_t end);

// x = cap tanh(x / cap), over x [count].
void SoftCap(float* x, int64_t count, float cap);

// Whether all of x [count] is finite.
bool AllFinite(const float* x, int64_t count);

}  // namespace weir::engine
