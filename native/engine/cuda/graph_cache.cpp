#include "engine/cuda/graph_cache.h"

#include <algorithm>
#include <bit>

#include "base/cuda/check.h"
#include "kernels/cpu/gemm.h"

namespace hels::cuda {
namespace {

constexpr size_t kGraphsMax = 128;
constexpr int64_t kContextMin = 256;

}  // namespace

int64_t sequenceBucket(int64_t sequences, int64_t largest) {
  int64_t bucket = 0;
  if (sequences <= 8) {
    bucket = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(sequences)));
  } else {
    bucket = roundUp(sequences, sequences <= 64 ? 8 : sequences <= 256 ? 32 : 128);
  }
  return std::min(bucket, largest);
}

int64_t contextBucket(int64_t context, int64_t largest) {
  const auto bucket = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(context)));
  return std::min(std::max(bucket, kContextMin), largest);
}

GraphCache::~GraphCache() {
  for (auto& [key, entry] : entries_) {
    if (entry.executable != nullptr) (void)cudaGraphExecDestroy(entry.executable);
  }
}

void GraphCache::run(const GraphKey& key, cudaStream_t stream, const std::function<void()>& enqueue) {
  const auto [found, isNew] = entries_.try_emplace(key);
  Entry& entry = found->second;
  entry.lastUse = ++uses_;
  if (isNew) {
    makeRoom();
    return enqueue();
  }
  if (entry.executable == nullptr) {
    entry.executable = record(stream, enqueue);
    ++recorded_;
  }
  check(cudaGraphLaunch(entry.executable, stream), "launch of a recorded step");
  ++replayed_;
}

cudaGraphExec_t GraphCache::record(cudaStream_t stream, const std::function<void()>& enqueue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording of a step");
  cudaGraph_t graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "recording of a step");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(error, "preparing of a recorded step");
  return executable;
}

/// Forgets the graph that was not used for longest.
void GraphCache::makeRoom() {
  if (entries_.size() <= kGraphsMax) return;
  const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return a.second.lastUse < b.second.lastUse;
  });
  if (oldest->second.executable != nullptr) {
    check(cudaGraphExecDestroy(oldest->second.executable), "release of a recorded step");
  }
  entries_.erase(oldest);
}

}  // namespace hels::cuda
