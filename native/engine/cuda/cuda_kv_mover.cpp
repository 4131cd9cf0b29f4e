#include "engine/cuda/cuda_kv_mover.h"

#include <chrono>
#include <unordered_set>

namespace hels::cuda {

CudaKvMover::~CudaKvMover() {
  // Copies wait for nothing but the work that was in front of them, so that this ends.
  (void)cudaStreamSynchronize(leaving_.stream.get());
  (void)cudaStreamSynchronize(coming_.stream.get());
}

void CudaKvMover::begin(const std::vector<KvMove>& moves, const std::vector<SequenceStep>& sequences,
                        cudaStream_t compute) {
  std::unordered_set<int32_t> touched;
  for (const SequenceStep& sequence : sequences) touched.insert(sequence.blockTable.begin(), sequence.blockTable.end());
  std::vector<KvMove> needed;
  std::vector<KvMove> others;
  for (const KvMove& move : moves) {
    (touched.contains(move.from) || touched.contains(move.to) ? needed : others).push_back(move);
  }
  begun_.record(compute);
  for (Lane* lane : {&leaving_, &coming_}) {
    begun_.holdUp(lane->stream.get());
    lane->used = false;
  }
  enqueue(needed);
  for (Lane* lane : {&leaving_, &coming_}) {
    if (!lane->used) continue;
    lane->needed.record(lane->stream.get());
    lane->needed.holdUp(compute);
  }
  ready_.record(compute);
  enqueue(others);
  const auto start = std::chrono::steady_clock::now();
  for (const KvMove& move : moves) {
    if (!kv_.empty() && !kv_.onDevice(move.from) && !kv_.onDevice(move.to)) kv_.copyWithinHost(move);
  }
  hostSeconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void CudaKvMover::enqueue(const std::vector<KvMove>& moves) {
  for (const KvMove& move : moves) {
    if (kv_.empty() || (!kv_.onDevice(move.from) && !kv_.onDevice(move.to))) continue;
    Lane& lane = laneOf(move);
    kv_.copy(move, lane.stream.get());
    lane.used = true;
  }
}

void CudaKvMover::finish(cudaStream_t compute) {
  computed_.record(compute);
  for (Lane* lane : {&leaving_, &coming_}) {
    if (!lane->used) continue;
    lane->all.record(lane->stream.get());
    lane->all.holdUp(compute);
  }
  done_.record(compute);
}

double CudaKvMover::seconds() const {
  return hostSeconds_ + ready_.secondsSince(begun_) + done_.secondsSince(computed_);
}

}  // namespace hels::cuda
