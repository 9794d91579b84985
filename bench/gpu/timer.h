// SPDX-License-Identifier: Apache-2.0
//
// Times work on the GPU: medians of events around a captured graph.
//
// Threads: one.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "tests/gpu/device_array.h"

namespace weir::gpu {

// Microseconds of one of the `launches` that `work` puts on a stream, the
// median of `repeats` replays of them all.
inline double MedianUs(int launches,
                       int repeats,
                       const std::function<void(cudaStream_t)>& work) {
  cudaStream_t stream;
  Must(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
       "capture");
  work(stream);
  Must(cudaStreamEndCapture(stream, &graph), "end of capture");
  Must(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin;
  cudaEvent_t end;
  Must(cudaEventCreate(&begin), "event");
  Must(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    Must(cudaEventRecord(begin, stream), "record");
    Must(cudaGraphLaunch(exec, stream), "graph launch");
    Must(cudaEventRecord(end, stream), "record");
    Must(cudaEventSynchronize(end), "graph run");
    float ms = 0;
    Must(cudaEventElapsedTime(&ms, begin, end), "time");
    // The first runs bring the modules and the clocks.
    if (i >= 2) times.push_back(ms * 1e3 / launches);
  }
  std::nth_element(
      times.begin(), times.begin() + times.size() / 2, times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return times[times.size() / 2];
}

}  // namespace weir::gpu
