// SPDX-License-Identifier: Apache-2.0
//
// How the warpgroups of a chunk kernel hand work to each other and what they
// ask of the memory: barriers in shared memory, copies, registers (compute
// capability 9.0).
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/chunk_tile.cuh"

namespace weir::engine {

__device__ inline void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(SharedAddress(barrier)),
      "r"(arrivals)
      : "memory");
}
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(SharedAddress(barrier))
      : "memory");
}
// Waits for the barrier's turn `turn`, counted from 0.
__device__ inline void Await(uint64_t* barrier, int turn) {
  asm volatile(
      "{\n.reg .pred p;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\nbra again;\ndone:\n}\n" ::"r"(SharedAddress(barrier)),
      "r"(turn & 1)
      : "memory");
}
// Copies kBytes, 4 or 16, to shared memory; zeros if not `here`.
template <int kBytes>
__device__ inline void CopyAsync(uint32_t to, const void* from, bool here) {
  const int bytes = here ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to),
                 "l"(from),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to),
                 "l"(from),
                 "r"(bytes)
                 : "memory");
  }
}
// Lets the copies of this thread arrive when they are done.
__device__ inline void ArriveCopied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(
                   SharedAddress(barrier))
               : "memory");
}
__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kPending>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

}  // namespace weir::engine
