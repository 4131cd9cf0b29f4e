// Moves KV of a rank's heads between addresses on its device and in page-locked host memory, beside the step's kernels
// where these need none of it. A copy engine for each direction: what leaves does not wait for what comes back.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "base/cuda/event.h"
#include "base/cuda/stream.h"
#include "engine/cuda/cuda_kv.h"
#include "engine/engine.h"

namespace hels::cuda {

class CudaKvMover {
 public:
  /// Memory that `kv` names outlives the mover.
  explicit CudaKvMover(const CudaKvPlaces& kv) : kv_(kv) {}
  /// Ends what is under way: the memory is free to go.
  ~CudaKvMover();
  CudaKvMover(const CudaKvMover&) = delete;
  CudaKvMover& operator=(const CudaKvMover&) = delete;

  /// Enqueues the moves of a step, all after what `compute` holds. What comes later in `compute` waits for moves from
  /// or to blocks of the step's sequences; the others go on until finish(). `moves` is checked: no address twice.
  void begin(const std::vector<KvMove>& moves, const std::vector<SequenceStep>& sequences, cudaStream_t compute);
  /// What comes later in `compute` waits for all moves.
  void finish(cudaStream_t compute);
  /// By how much the moves since begin() made the work in `compute` longer. After finish() and the wait for `compute`.
  double seconds() const;

 private:
  /// Copies in one direction.
  struct Lane {
    Stream stream;
    Event needed;  // moves that the step's sequences wait for
    Event all;
    bool used = false;
  };

  Lane& laneOf(const KvMove& move) { return kv_.onDevice(move.from) && !kv_.onDevice(move.to) ? leaving_ : coming_; }
  void enqueue(const std::vector<KvMove>& moves);

  const CudaKvPlaces kv_;
  Lane leaving_;  // for the host
  Lane coming_;   // from there, and within the device
  Event begun_, ready_, computed_, done_;
  double hostSeconds_ = 0;  // of moves within host memory, by this thread
};

}  // namespace hels::cuda
