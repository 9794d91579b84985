// SPDX-License-Identifier: Apache-2.0
//
// Copies of whole pieces of memory by the copy engine of sm_90: one thread asks
// for a piece, a barrier in shared memory says when it is there.
//
// Threads: as each function says.
#pragma once

#include <cstdint>

namespace weir::engine {

#if __CUDA_ARCH__ >= 900

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// One thread, before any other uses the barrier.
__device__ inline void InitBarrier(uint64_t* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(barrier))
      : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One thread: the barrier's phase ends when so many bytes have come by the
// StartPart calls that follow.
__device__ inline void ExpectLoad(uint32_t bytes, uint64_t* barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

// One thread: `bytes`, a multiple of 16, from device memory to shared memory,
// both 16-byte aligned.
__device__ inline void StartPart(void* to,
                                 const void* from,
                                 uint32_t bytes,
                                 uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(SharedAddress(to)),
      "l"(from),
      "r"(bytes),
      "r"(SharedAddress(barrier))
      : "memory");
}

// Both, of one piece.
__device__ inline void StartLoad(void* to,
                                 const void* from,
                                 uint32_t bytes,
                                 uint64_t* barrier) {
  ExpectLoad(bytes, barrier);
  StartPart(to, from, bytes, barrier);
}

// Every thread that reads what was loaded.
__device__ inline void WaitLoad(uint64_t* barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(phase)
      : "memory");
}

// Every thread that wrote shared memory, before the barrier that stands before
// StartStore.
__device__ inline void FenceStores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// One thread; that same thread waits.
__device__ inline void StartStore(void* to, const void* from, uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
      "r"(SharedAddress(from)),
      "r"(bytes)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until all but the last kPending stores have read their shared memory.
template <int kPending>
__device__ inline void WaitStoresRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Until all stores are done.
__device__ inline void WaitStores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#endif

}  // namespace weir::engine
