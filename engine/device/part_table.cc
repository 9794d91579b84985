// SPDX-License-Identifier: Apache-2.0
#include "engine/device/part_table.h"

#include "engine/device/channel_mix_part.h"
#include "engine/device/feed_forward_part.h"
#include "engine/device/gated_delta_part.h"
#include "engine/device/mamba_part.h"
#include "engine/device/recurrent_mixers.h"
#include "engine/device/rwkv4_part.h"
#include "engine/device/rwkv6_part.h"
#include "engine/device/rwkv7_part.h"
#include "engine/device/summed_mixers.h"

namespace weir::engine {
namespace {

using Maker = absl::StatusOr<std::unique_ptr<DevicePart>> (*)(const Mixer& from,
                                                              DeviceWeights&);

// Null if `from` is another mixer.
template <typename Kind,
          absl::StatusOr<std::unique_ptr<DevicePart>> (*kMake)(const Kind&,
                                                               DeviceWeights&)>
absl::StatusOr<std::unique_ptr<DevicePart>> Of(const Mixer& from,
                                               DeviceWeights& weights) {
  const auto* kind = dynamic_cast<const Kind*>(&from);
  if (kind == nullptr) return nullptr;
  return kMake(*kind, weights);
}

absl::StatusOr<std::unique_ptr<DevicePart>> MakeGatedDelta(
    const GatedDeltaNet& from, DeviceWeights& weights) {
  return TakesGatedDelta(from)
             ? MakeGatedDeltaPart(from, StateForm::kWrite, weights)
             : MakeAnyGatedDeltaPart(from, weights);
}

constexpr Maker kMakers[] = {
    Of<ChannelMix, MakeChannelMixPart>,
    Of<DeltaNet, MakeDeltaNetPart>,
    Of<GatedDeltaNet, MakeGatedDelta>,
    Of<GatedDeltaProduct, MakeGatedDeltaProductPart>,
    Of<GatedLinearAttention, MakeGlaPart>,
    Of<Gdn2, MakeGdn2Part>,
    Of<Hgrn2, MakeHgrn2Part>,
    Of<Kda, MakeKdaPart>,
    Of<Lightning, MakeLightningPart>,
    Of<LinearAttention, MakeLinearAttentionPart>,
    Of<LinearTransformer, MakeLinearTransformerPart>,
    Of<Mamba, MakeMambaPart>,
    Of<Mamba2, MakeMamba2Part>,
    Of<Performer, MakePerformerPart>,
    Of<Retention, MakeRetentionPart>,
    Of<Rwkv4, MakeRwkv4Part>,
    Of<Rwkv6, MakeRwkv6Part>,
    Of<Rwkv7, MakeRwkv7Part>,
    Of<SimpleGla, MakeSimpleGlaPart>,
    Of<SwiGlu, MakeFeedForwardPart>,
};

}  // namespace

absl::StatusOr<std::unique_ptr<DevicePart>> MakeDevicePart(
    const Mixer& from, StateForm form, DeviceWeights& weights) {
  if (form == StateForm::kRing) {
    const auto* gated_delta = dynamic_cast<const GatedDeltaNet*>(&from);
    if (gated_delta != nullptr) {
      return MakeGatedDeltaPart(*gated_delta, form, weights);
    }
  }
  for (const Maker make : kMakers) {
    absl::StatusOr<std::unique_ptr<DevicePart>> part = make(from, weights);
    if (!part.ok()) return part;
    if (*part == nullptr) continue;
    if (form == StateForm::kRing &&
        !(*part)->State(StateNumber::kFloat32).empty()) {
      return absl::UnimplementedError(
          "this mixer has no ring form; --state-form write serves it");
    }
    return part;
  }
  return absl::UnimplementedError("this mixer runs on a CPU only");
}

}  // namespace weir::engine
