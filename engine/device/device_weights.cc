// SPDX-License-Identifier: Apache-2.0
#include "engine/device/device_weights.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace weir::engine {
namespace {

constexpr int64_t kStagingNumbers = int64_t{8} << 20;
constexpr char kWeights[] = "weights";

absl::StatusOr<DeviceMemory> Copied(std::span<const std::byte> from) {
  WEIR_ASSIGN_OR_RETURN(
      DeviceMemory memory,
      DeviceMemory::Take(static_cast<int64_t>(from.size()), kWeights));
  if (from.empty()) return memory;
  WEIR_RETURN_IF_ERROR(CudaStatus(
      cudaMemcpy(
          memory.data(), from.data(), from.size(), cudaMemcpyHostToDevice),
      kWeights));
  return memory;
}

}  // namespace

absl::StatusOr<DeviceWeights> DeviceWeights::Create(StateNumber number) {
  DeviceWeights weights(number);
  WEIR_ASSIGN_OR_RETURN(
      weights.staging_,
      PinnedMemory::Take(kStagingNumbers * sizeof(float), kWeights));
  return weights;
}

absl::StatusOr<DeviceMemory> DeviceWeights::Matrix(const Buffer& from) {
  if (number_ == StateNumber::kFloat32) return Floats(from);
  WEIR_ASSIGN_OR_RETURN(
      DeviceMemory memory,
      DeviceMemory::Take(from.size() * sizeof(__nv_bfloat16), kWeights));
  auto* staging = reinterpret_cast<__nv_bfloat16*>(staging_.data());
  for (int64_t begin = 0; begin < from.size(); begin += kStagingNumbers) {
    const int64_t count = std::min(kStagingNumbers, from.size() - begin);
    for (int64_t i = 0; i < count; ++i) {
      staging[i] = __float2bfloat16(from.data()[begin + i]);
    }
    WEIR_RETURN_IF_ERROR(
        CudaStatus(cudaMemcpy(memory.as<__nv_bfloat16>() + begin,
                              staging,
                              count * sizeof(__nv_bfloat16),
                              cudaMemcpyHostToDevice),
                   kWeights));
  }
  return memory;
}

absl::StatusOr<DeviceMemory> DeviceWeights::Floats(const Buffer& from) {
  return Floats(
      std::span<const float>(from.data(), static_cast<size_t>(from.size())));
}

absl::StatusOr<DeviceMemory> DeviceWeights::Floats(
    std::span<const float> from) {
  return Copied(std::as_bytes(from));
}

absl::StatusOr<DeviceMemory> DeviceWeights::Doubles(
    std::span<const double> from) {
  return Copied(std::as_bytes(from));
}

}  // namespace weir::engine
