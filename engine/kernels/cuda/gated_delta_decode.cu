// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/cuda/gated_delta_decode.h"
#include "engine/kernels/cuda/gated_delta_stream.h"
#include "engine/kernels/cuda/gated_delta_together.h"
#include "engine/kernels/cuda/gated_delta_token.cuh"
#include "engine/kernels/cuda/launch_order.cuh"
#include "engine/kernels/cuda/state_tile.cuh"
#include "engine/kernels/cuda/token_step.cuh"

namespace weir::engine {
namespace {

using DeltaRule =
    Rule<DecayKind::kHead, Correction::kDelta, ReadOrder::kAfterWrite>;

// Blocks of a head, which exchange the sum of the norm: the most that a
// portable cluster has.
constexpr int kClusterMax = 8;

__device__ int MixedColumns(const GatedDeltaDecodeArgs& args) {
  return 2 * args.key_heads * args.key_dim + args.heads * args.value_dim;
}

// Leaves the row's only token in the window: each column by one block.
template <typename Input, int kKeyDim, int kRows>
__device__ void WriteWindow(const GatedDeltaDecodeArgs& args,
                            const TilePlace& place) {
  const bool has_keys =
      place.head % (args.heads / args.key_heads) == 0 && place.first_value == 0;
  const auto* x = static_cast<const Input*>(args.projected) +
                  place.first * args.projected_stride;
  const uint32_t entry =
      place.consumed % static_cast<uint32_t>(args.conv_width);
  Input* window = static_cast<Input*>(args.window) +
                  place.slot * args.window_stride + entry * place.mixed;
  const int first = has_keys ? 0 : 2 * kKeyDim;
  for (int c = first + static_cast<int>(threadIdx.x);
       c < 2 * kKeyDim + place.values;
       c += kTileThreads) {
    const int column = ColumnOf<kKeyDim>(args, place, c);
    window[column] = x[column];
  }
}

// A block has one tile of one row's head: blockIdx is (tile, head, row).
template <typename Input, typename Number, int kWidth, int kKeyDim, int kPasses>
__global__ void __launch_bounds__(kTileThreads, 2)
    MixerKernel(const __grid_constant__ GatedDeltaDecodeArgs args,
                LeftOut left_out) {
  using Tile = StateTile<Number, kKeyDim, kPasses>;
  __shared__ GatedDeltaShared<kKeyDim, Tile::kRows> shared;
  LetNextLaunchBegin();
  const int32_t row = static_cast<int32_t>(blockIdx.z);
  const bool is_single = args.row_tokens_max == 1;
  TilePlace place;
  place.slot = args.slots[row];
  place.first = is_single ? row : args.row_starts[row];
  place.tokens =
      is_single ? 1 : args.row_starts[row + 1] - args.row_starts[row];
  // The blocks of a cluster have one row, and so all of them leave here.
  if (place.slot < 0 || place.tokens == 0 || left_out.Has(place.tokens)) {
    AwaitLaunchBefore();
    return;
  }
  place.consumed = args.consumed[row];
  place.head = static_cast<int32_t>(blockIdx.y);
  place.key_head = place.head / (args.heads / args.key_heads);
  place.first_value = static_cast<int32_t>(blockIdx.x) * Tile::kRows;
  place.values = min(Tile::kRows, args.value_dim - place.first_value);
  place.value = place.head * args.value_dim + place.first_value;
  place.mixed = MixedColumns(args);
  const bool is_cluster = gridDim.x > 1;

  place.log2_rate = args.log2_rate[place.head];
  place.dt_bias = args.dt_bias[place.head];
  place.norm_weight = args.norm_weight[min(
      place.first_value + static_cast<int>(threadIdx.x), args.value_dim - 1)];
  Number* state = static_cast<Number*>(args.state) +
                  place.slot * args.state_stride +
                  int64_t{place.value} * kKeyDim;
  Tile tile;
  tile.template Load<true>(state, place.values, kKeyDim, place.consumed == 0);
  // Till here nothing was read that the launch before may write.
  AwaitLaunchBefore();
  TokenInputs<kWidth, kKeyDim, Tile::kRows> token;
  FetchToken<Input>(args, place, 0, token);
  for (int i = 0; i < place.tokens; ++i) {
    PrepareToken(args, place, token, shared);
    const float z = token.z;
    if (i + 1 < place.tokens) FetchToken<Input>(args, place, i + 1, token);
    StepToken<DeltaRule>(
        tile, shared.token, [&](int r, float o) { shared.o[r] = o; });
    __syncthreads();
    FinishToken<Input>(args, place, i, z, is_cluster, shared);
  }
  tile.template Store<true>(
      state, place.values, kKeyDim, KeyOf(args, place.consumed, place.value));
  if (place.tokens == 1) WriteWindow<Input, kKeyDim, Tile::kRows>(args, place);
}

// The last inputs of each row of several tokens to its window, when the mixer
// has read it. blockIdx is (block of columns, row).
template <typename Input>
__global__ void WindowKernel(const __grid_constant__ GatedDeltaDecodeArgs args,
                             LeftOut left_out) {
  const int32_t row = static_cast<int32_t>(blockIdx.y);
  const int32_t slot = args.slots[row];
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t mixed = MixedColumns(args);
  if (slot < 0 || column >= mixed) return;
  const int64_t last = args.row_starts[row + 1];
  const int32_t tokens = static_cast<int32_t>(last - args.row_starts[row]);
  const auto* x = static_cast<const Input*>(args.projected);
  if (tokens <= 1 || left_out.Has(tokens)) return;
  Input* window =
      static_cast<Input*>(args.window) + slot * args.window_stride + column;
  const uint32_t end = args.consumed[row] + static_cast<uint32_t>(tokens);
  for (int32_t back = 1; back <= min(tokens, args.conv_width); ++back) {
    const uint32_t entry = (end - static_cast<uint32_t>(back)) %
                           static_cast<uint32_t>(args.conv_width);
    window[entry * mixed] = x[(last - back) * args.projected_stride + column];
  }
}

using Launcher = cudaError_t (*)(const GatedDeltaDecodeArgs& args,
                                 LeftOut left_out,
                                 cudaStream_t stream);

// Whether rows of several tokens are this launch's.
bool TakesLongRows(const GatedDeltaDecodeArgs& args, LeftOut left_out) {
  return args.row_tokens_max > std::max(1, left_out.tokens_max);
}

template <typename Input, typename Number, int kWidth, int kKeyDim, int kPasses>
cudaError_t Launch(const GatedDeltaDecodeArgs& args,
                   LeftOut left_out,
                   cudaStream_t stream) {
  constexpr int kRows = StateTile<Number, kKeyDim, kPasses>::kRows;
  const auto tiles =
      static_cast<uint32_t>((args.value_dim + kRows - 1) / kRows);
  cudaLaunchAttribute attributes[2] = {};
  unsigned int count = 0;
  if (tiles > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {tiles, 1, 1};
  }
  if (args.begins_early) attributes[count++] = BeginsEarly();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(tiles, args.heads, args.rows);
  config.blockDim = dim3(kTileThreads);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  const cudaError_t status =
      cudaLaunchKernelEx(&config,
                         MixerKernel<Input, Number, kWidth, kKeyDim, kPasses>,
                         args,
                         left_out);
  if (status != cudaSuccess || !TakesLongRows(args, left_out)) return status;
  constexpr int kColumns = 256;
  const int64_t mixed = int64_t{2} * args.key_heads * args.key_dim +
                        int64_t{args.heads} * args.value_dim;
  const dim3 grid(static_cast<uint32_t>((mixed + kColumns - 1) / kColumns),
                  args.rows);
  WindowKernel<Input><<<grid, kColumns, 0, stream>>>(args, left_out);
  return cudaGetLastError();
}

// From this many states on, blocks of 64 KiB fill the card, and from that many
// on a stream of them does: docs/kernels/decode.md.
constexpr int64_t kWholeStates = 64;
constexpr int64_t kStreamStates = 128;

GatedDeltaForm FormFor(const GatedDeltaDecodeArgs& args,
                       LeftOut left_out,
                       int pass_rows) {
  if (args.form != GatedDeltaForm::kByStates) return args.form;
  const int64_t states = int64_t{args.rows} * args.heads;
  if (states >= kStreamStates && !TakesLongRows(args, left_out) &&
      CanStreamGatedDelta(args)) {
    return GatedDeltaForm::kStream;
  }
  return states >= kWholeStates || args.value_dim > kClusterMax * pass_rows
             ? GatedDeltaForm::kWhole
             : GatedDeltaForm::kSpread;
}

template <typename Input, typename Number, int kWidth, int kKeyDim>
Launcher OfTile(const GatedDeltaDecodeArgs& args, LeftOut left_out) {
  constexpr int kWholePasses = 4;
  constexpr int kPassRows = StateTile<Number, kKeyDim, 1>::kPassRows;
  switch (FormFor(args, left_out, kPassRows)) {
    case GatedDeltaForm::kSpread:
      if (args.value_dim > kClusterMax * kPassRows) return nullptr;
      return Launch<Input, Number, kWidth, kKeyDim, 1>;
    case GatedDeltaForm::kWhole:
      if (args.value_dim > kClusterMax * kWholePasses * kPassRows) {
        return nullptr;
      }
      return Launch<Input, Number, kWidth, kKeyDim, kWholePasses>;
    case GatedDeltaForm::kStream:
      if (TakesLongRows(args, left_out) || !CanStreamGatedDelta(args)) {
        return nullptr;
      }
      return [](const GatedDeltaDecodeArgs& work, LeftOut, cudaStream_t on) {
        return StreamGatedDelta(work, on);
      };
    case GatedDeltaForm::kByStates:
      break;
  }
  return nullptr;
}

template <typename Input, typename Number, int kWidth>
Launcher OfKeyDim(const GatedDeltaDecodeArgs& args, LeftOut left_out) {
  switch (args.key_dim) {
    case 64:
      return OfTile<Input, Number, kWidth, 64>(args, left_out);
    case 128:
      return OfTile<Input, Number, kWidth, 128>(args, left_out);
    case 256:
      return OfTile<Input, Number, kWidth, 256>(args, left_out);
    default:
      return nullptr;
  }
}

template <typename Input>
Launcher OfNumber(const GatedDeltaDecodeArgs& args, LeftOut left_out) {
  const bool is_float = args.state_number == StateNumber::kFloat32;
  if (args.conv_width == 4) {
    return is_float ? OfKeyDim<Input, float, 4>(args, left_out)
                    : OfKeyDim<Input, __nv_bfloat16, 4>(args, left_out);
  }
  return is_float ? OfKeyDim<Input, float, 0>(args, left_out)
                  : OfKeyDim<Input, __nv_bfloat16, 0>(args, left_out);
}

bool IsSound(const GatedDeltaDecodeArgs& args) {
  const int64_t bytes = args.state_number == StateNumber::kFloat32 ? 4 : 2;
  constexpr int32_t kGridMax = 65535;
  constexpr int64_t kColumnsMax = 1 << 20;
  return args.rows <= kGridMax && args.heads <= kGridMax &&
         args.key_heads > 0 && args.heads % args.key_heads == 0 &&
         args.conv_width >= 2 && args.conv_width <= 8 && args.value_dim >= 1 &&
         args.row_tokens_max >= 1 &&
         reinterpret_cast<uintptr_t>(args.state) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(args.conv_weight) % 16 == 0 &&
         int64_t{args.heads} * args.value_dim +
                 int64_t{2} * args.key_heads * args.key_dim <=
             kColumnsMax &&
         args.state_stride * bytes % 16 == 0 && args.state != nullptr &&
         args.window != nullptr;
}

}  // namespace

cudaError_t GatedDeltaDecode(const GatedDeltaDecodeArgs& args,
                             cudaStream_t stream) {
  if (!IsSound(args)) return cudaErrorInvalidValue;
  LeftOut left_out;
  if (args.row_tokens_max > 1 && args.form == GatedDeltaForm::kByStates) {
    left_out = {2, TogetherTokensMax(args)};
  }
  const bool is_together = left_out.tokens_max >= 2;
  // Rows of one token are another's.
  if (args.row_tokens_min > 1) {
    left_out = {1, std::max(1, left_out.tokens_max)};
  }
  const Launcher launch = args.number == StateNumber::kFloat32
                              ? OfNumber<float>(args, left_out)
                              : OfNumber<__nv_bfloat16>(args, left_out);
  if (launch == nullptr) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;
  if (!is_together || args.row_tokens_min == 1 ||
      TakesLongRows(args, left_out)) {
    const cudaError_t status = launch(args, left_out, stream);
    if (status != cudaSuccess || !is_together) return status;
  }
  return DecodeTogether(args, stream);
}

}  // namespace weir::engine
