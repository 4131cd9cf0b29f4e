// Steps that repeat, recorded once and replayed: launching a graph costs the host a few microseconds, launching its
// kernels one by one milliseconds for a deep model.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>

#include "base/cuda/stream.h"

namespace hels::cuda {

/// What a recorded step is made for; all that differs between steps of one key lies in device memory.
struct GraphKey {
  int64_t sequences = 0;
  int64_t contextMax = 0;
  bool noise = false;
  auto operator<=>(const GraphKey&) const = default;  // NOLINT(modernize-use-nullptr): not in what is generated
};

/// The smallest bucket that holds `sequences`, but at most `largest`: products take rows by eights, and few buckets
/// mean few graphs.
int64_t sequenceBucket(int64_t sequences, int64_t largest);
/// The smallest bucket that holds `context`, but at most `largest`: powers of two.
int64_t contextBucket(int64_t context, int64_t largest);

class GraphCache {
 public:
  GraphCache() = default;
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  /// Runs `enqueue` on `stream`: directly the first time that a key comes (what it uses is loaded then), recorded and
  /// replayed the second time, replayed from then on. `enqueue` must not depend on anything but the key.
  void run(const GraphKey& key, cudaStream_t stream, const std::function<void()>& enqueue);

  int64_t recorded() const { return recorded_; }
  int64_t replayed() const { return replayed_; }

 private:
  struct Entry {
    cudaGraphExec_t executable = nullptr;
    int64_t lastUse = 0;
  };

  static cudaGraphExec_t record(cudaStream_t stream, const std::function<void()>& enqueue);
  void makeRoom();

  std::map<GraphKey, Entry> entries_;
  int64_t uses_ = 0;
  int64_t recorded_ = 0;
  int64_t replayed_ = 0;
};

}  // namespace hels::cuda
