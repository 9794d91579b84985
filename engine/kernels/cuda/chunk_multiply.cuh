// SPDX-License-Identifier: Apache-2.0
//
// A warpgroup's products as the card has them.
#pragma once

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "engine/kernels/cuda/chunk_wgmma.cuh"
#include "engine/kernels/cuda/chunk_wide.cuh"
#else
#include "engine/kernels/cuda/chunk_mma.cuh"
#endif
