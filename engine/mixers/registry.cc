// SPDX-License-Identifier: Apache-2.0
#include "engine/mixers/registry.h"

#include "engine/mixers/delta_net.h"
#include "engine/mixers/fla_decoder.h"
#include "engine/mixers/gated_delta_net.h"
#include "engine/mixers/gated_delta_product.h"
#include "engine/mixers/gated_linear_attention.h"
#include "engine/mixers/gated_slots.h"
#include "engine/mixers/gdn2.h"
#include "engine/mixers/hgrn2.h"
#include "engine/mixers/kda.h"
#include "engine/mixers/lightning.h"
#include "engine/mixers/linear_attention.h"
#include "engine/mixers/linear_transformer.h"
#include "engine/mixers/linformer.h"
#include "engine/mixers/mamba.h"
#include "engine/mixers/mamba2.h"
#include "engine/mixers/mlstm.h"
#include "engine/mixers/performer.h"
#include "engine/mixers/retention.h"
#include "engine/mixers/rwkv4.h"
#include "engine/mixers/rwkv6.h"
#include "engine/mixers/rwkv7.h"
#include "engine/mixers/simple_gla.h"

namespace weir::engine {
namespace {

constexpr Family kFamilies[] = {
    {"delta_net", nullptr, ReadDeltaNet},
    {"falcon_mamba", nullptr, ReadFalconMamba},
    {"gated_deltanet", nullptr, ReadGatedDeltaNet},
    {"gated_deltaproduct", nullptr, ReadGatedDeltaProduct},
    {"gla", nullptr, ReadGatedLinearAttention},
    {"gsa", nullptr, ReadGatedSlots},
    {"hgrn2", nullptr, ReadHgrn2},
    {"kda", nullptr, ReadKda},
    {"linear_attn", nullptr, ReadLinearAttention},
    {"mamba", IsFla, ReadFlaMamba},
    {"mamba", nullptr, ReadMamba},
    {"mamba2", IsFla, ReadFlaMamba2},
    {"mamba2", IsOfficialMamba2, ReadOfficialMamba2, /*unnamed=*/true},
    {"mamba2", nullptr, ReadMamba2},
    {"retnet", nullptr, ReadRetention},
    {"rwkv", nullptr, ReadRwkv4},
    {"rwkv6", nullptr, ReadRwkv6},
    {"rwkv7", nullptr, ReadRwkv7},
    {"weir_gdn2", nullptr, ReadGdn2},
    {"weir_lightning", nullptr, ReadLightning},
    {"weir_linear_transformer", nullptr, ReadLinearTransformer},
    {"weir_linformer", nullptr, ReadLinformer},
    {"weir_performer", nullptr, ReadPerformer},
    {"weir_simple_gla", nullptr, ReadSimpleGla},
    {"xlstm", nullptr, ReadXlstm},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

}  // namespace weir::engine
