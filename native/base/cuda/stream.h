// A CUDA stream, with one owner unless it is lent.
#pragma once

#include <cuda_runtime.h>

#include "base/cuda/check.h"

namespace hels::cuda {

/// Of the device that is current when it is made; beside the default stream.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  /// One that somebody else ends, after this: a partition's.
  explicit Stream(cudaStream_t lent) : stream_(lent), lent_(true) {}
  ~Stream() {
    if (!lent_) (void)cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  bool lent_ = false;
};

}  // namespace hels::cuda
