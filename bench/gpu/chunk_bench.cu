// SPDX-License-Identifier: Apache-2.0
//
// Times the GPU's chunk kernels. Prints JSON, name -> number: milliseconds, and
// the floor, which is the larger of the products at a large product's rate and
// of the bytes at the rate of a copy in the same run. Inputs are random and
// cold: sets of them are used in turn until none is left in the L2 cache.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/gpu/figures.h"
#include "engine/kernels/cuda/chunk.h"
#include "tests/gpu/device_array.h"

namespace weir::gpu {
namespace {

using engine::ChunkArgs;

constexpr int kRuns = 15;
// What a large product of bf16 matrices reaches on this device kind.
constexpr double kProductRate = 790e12;

struct Shape {
  const char* name;
  int32_t rows;
  int32_t tokens;  // of a row
  int32_t heads;
  int32_t key_heads;
  int32_t key_dim;
  int32_t value_dim;
  bool delta;
  bool channels = false;  // have a decay each
};

constexpr Shape kShapes[] = {
    {"gdn", 8, 8192, 32, 16, 128, 128, true},
    {"gdn", 32, 2048, 32, 16, 128, 128, true},
    {"gdn", 64, 256, 32, 16, 128, 128, true},
    {"gdn", 256, 64, 32, 16, 128, 128, true},
    {"gdn", 4, 8192, 32, 16, 128, 128, true},
    {"gdn", 1, 8192, 32, 16, 128, 128, true},
    {"gdn", 1, 65536, 32, 16, 128, 128, true},
    {"gdn_8_heads", 1, 8192, 8, 4, 128, 128, true},
    {"gdn_8_heads", 1, 65536, 8, 4, 128, 128, true},
    {"gdn", 8, 8192, 6, 6, 256, 512, true},
    {"gdn", 1, 8192, 6, 6, 256, 512, true},
    {"gdn", 1, 65536, 6, 6, 256, 512, true},
    {"gdn", 8, 8192, 32, 16, 64, 64, true},
    {"kda", 8, 8192, 32, 32, 128, 128, true, true},
    {"kda", 1, 8192, 32, 32, 128, 128, true, true},
    {"gla", 8, 8192, 32, 32, 128, 128, false, true},
    {"retnet", 8, 8192, 32, 32, 128, 128, false},
    {"retnet", 1, 8192, 32, 32, 128, 128, false},
    {"mamba2", 8, 8192, 64, 1, 128, 64, false},
    {"retnet", 8, 8192, 8, 8, 256, 512, false},
};

__device__ float Uniform(uint64_t i, uint32_t seed) {
  uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ULL + seed;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return static_cast<float>((x ^ x >> 31) >> 40) * 0x1p-24F;
}

template <typename T>
__global__ void FillKernel(
    T* x, int64_t count, float low, float high, uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += step) {
    x[i] = static_cast<T>(low + (high - low) * Uniform(i, seed));
  }
}

template <typename T>
void Fill(DeviceArray<T>& x, float low, float high, uint32_t seed) {
  FillKernel<<<1024, 256>>>(
      x.data(), static_cast<int64_t>(x.size()), low, high, seed);
  Must(cudaGetLastError(), "fill");
}

// One set of inputs.
class Inputs {
 public:
  Inputs(const Shape& shape, uint32_t seed)
      : tokens_(int64_t{shape.rows} * shape.tokens),
        keys_(int64_t{shape.key_heads} * shape.key_dim),
        values_(int64_t{shape.heads} * shape.value_dim),
        q_(tokens_ * keys_),
        k_(tokens_ * keys_),
        v_(tokens_ * values_),
        out_(tokens_ * values_),
        decays_(shape.heads * (shape.channels ? shape.key_dim : 1)),
        decay_(tokens_ * decays_),
        beta_(tokens_ * shape.heads),
        state_(shape.rows * values_ * shape.key_dim),
        starts_(shape.rows + 1),
        slots_(shape.rows) {
    const float key = 1.7F / std::sqrt(static_cast<float>(shape.key_dim));
    Fill(q_, -key, key, seed);
    Fill(k_, -key, key, seed + 1);
    Fill(v_, -1.7F, 1.7F, seed + 2);
    Fill(decay_, -0.2F, 0.0F, seed + 3);
    Fill(beta_, 0.0F, 1.0F, seed + 4);
    Fill(state_, -1.0F, 1.0F, seed + 5);
    std::vector<int32_t> starts(shape.rows + 1);
    std::vector<int32_t> slots(shape.rows);
    for (int32_t row = 0; row <= shape.rows; ++row) {
      starts[row] = row * shape.tokens;
      if (row < shape.rows) slots[row] = shape.rows - 1 - row;
    }
    starts_.Set(starts);
    slots_.Set(slots);
    args_.rows = shape.rows;
    args_.tokens = tokens_;
    args_.longest_row = shape.tokens;
    args_.heads = shape.heads;
    args_.key_heads = shape.key_heads;
    args_.key_dim = shape.key_dim;
    args_.value_dim = shape.value_dim;
    args_.row_starts = starts_.data();
    args_.slots = slots_.data();
    args_.q = {q_.data(), keys_};
    args_.k = {k_.data(), keys_};
    args_.v = {v_.data(), values_};
    args_.log2_decay = {decay_.data(), decays_};
    if (shape.channels) args_.decay = engine::DecayKind::kKey;
    if (shape.delta) args_.beta = {beta_.data(), shape.heads};
    args_.out = out_.data();
    args_.out_stride = values_;
    args_.state = state_.data();
    args_.state_stride = values_ * shape.key_dim;
    workspace_ = std::make_unique<DeviceArray<uint8_t>>(
        static_cast<size_t>(engine::ChunkWorkspaceBytes(args_)));
    args_.workspace = workspace_->data();
  }

  const ChunkArgs& args() const { return args_; }
  int64_t bytes() const {
    return static_cast<int64_t>(
        q_.bytes() + k_.bytes() + v_.bytes() + out_.bytes() + decay_.bytes() +
        (args_.beta.data ? beta_.bytes() : 0) + 2 * state_.bytes());
  }

 private:
  using Bfloats = DeviceArray<__nv_bfloat16>;
  const int64_t tokens_;
  const int64_t keys_;
  const int64_t values_;
  Bfloats q_;
  Bfloats k_;
  Bfloats v_;
  Bfloats out_;
  const int64_t decays_;
  DeviceArray<float> decay_;
  DeviceArray<float> beta_;
  DeviceArray<float> state_;
  DeviceArray<int32_t> starts_;
  DeviceArray<int32_t> slots_;
  std::unique_ptr<DeviceArray<uint8_t>> workspace_;
  ChunkArgs args_;
};

struct Times {
  double median;
  double least;
  double most;
};

// Seconds of what `launch` puts on the stream, given the run's number.
template <typename Launch>
Times Time(Launch launch) {
  cudaEvent_t begin;
  cudaEvent_t end;
  Must(cudaEventCreate(&begin), "event");
  Must(cudaEventCreate(&end), "event");
  std::vector<double> seconds;
  for (int run = -3; run < kRuns; ++run) {
    Must(cudaEventRecord(begin), "record");
    launch(run + 3);
    Must(cudaEventRecord(end), "record");
    Must(cudaEventSynchronize(end), "run");
    float milliseconds = 0;
    Must(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (run >= 0) seconds.push_back(milliseconds * 1e-3);
  }
  Must(cudaEventDestroy(begin), "event");
  Must(cudaEventDestroy(end), "event");
  std::sort(seconds.begin(), seconds.end());
  return {seconds[kRuns / 2], seconds.front(), seconds.back()};
}

// Bytes read and written by a second of a large copy.
double CopyRate() {
  constexpr size_t kBytes = size_t{1} << 30;
  DeviceArray<uint8_t> from(kBytes);
  DeviceArray<uint8_t> to(kBytes);
  const Times times = Time([&](int) {
    Must(cudaMemcpyAsync(
             to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, nullptr),
         "copy");
  });
  return 2.0 * kBytes / times.median;
}

// "prefill_gdn_8x8192", with the head's widths where they are not 128.
std::string NameOf(const Shape& shape) {
  std::string name = std::string("prefill_") + shape.name + "_" +
                     std::to_string(shape.rows) + "x" +
                     std::to_string(shape.tokens);
  if (shape.key_dim != 128 || shape.value_dim != 128) {
    name += "_heads_" + std::to_string(shape.key_dim) + "x" +
            std::to_string(shape.value_dim);
  }
  return name;
}

void Measure(const Shape& shape,
             double copy_rate,
             int64_t cache_bytes,
             Figures& found) {
  std::vector<std::unique_ptr<Inputs>> sets;
  int64_t bytes = 0;
  while (sets.size() < 2 || bytes < 4 * cache_bytes) {
    sets.push_back(std::make_unique<Inputs>(shape, 100 * sets.size()));
    bytes += sets.back()->bytes();
  }
  Must(cudaDeviceSynchronize(), "fill");
  const Times times = Time([&](int run) {
    Must(engine::RecurrenceChunk(sets[run % sets.size()]->args(), nullptr),
         "chunk");
  });
  const double k = shape.key_dim;
  const double v = shape.value_dim;
  const double c = engine::kChunkTokens;
  const double flops = (shape.delta ? 6 * k * v + 4 * c * (k + v)
                                    : 4 * k * v + 2 * c * (k + v)) *
                       shape.heads * shape.rows * shape.tokens;
  const double floor =
      std::max(flops / kProductRate, sets[0]->bytes() / copy_rate);
  const std::string name = NameOf(shape);
  found[name + "_ms"] = times.median * 1e3;
  found[name + "_ms_most"] = times.most * 1e3;
  found[name + "_floor_ms"] = floor * 1e3;
  found[name + "_times_floor"] = times.median / floor;
}

void Run() {
  cudaDeviceProp device;
  Must(cudaGetDeviceProperties(&device, 0), "device");
  Figures found;
  const double copy_rate = CopyRate();
  found["prefill_copy_tb_s"] = copy_rate / 1e12;
  for (const Shape& shape : kShapes) {
    Measure(shape, copy_rate, device.l2CacheSize, found);
  }
  Print(found);
}

}  // namespace
}  // namespace weir::gpu

int main() {
  weir::gpu::Run();
  return 0;
}
