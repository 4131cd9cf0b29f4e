// A CUDA event, with one owner.
#pragma once

#include <cuda_runtime.h>

#include "base/cuda/check.h"

namespace hels::cuda {

/// Of the device that is current when it is made; it can tell times.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDefault), "event"); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "event"); }
  /// What comes later in `stream` waits for what was recorded.
  void holdUp(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0), "wait for an event"); }
  /// Both have passed.
  double secondsSince(const Event& start) const {
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "time between events");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace hels::cuda
