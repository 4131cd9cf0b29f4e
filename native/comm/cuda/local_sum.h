// The kernel that sums values of ranks which share one device: every rank launches it in its own stream, and the blocks
// of equal index meet twice through flags in device memory. It may be captured into a graph and replayed.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace hels::cuda {

inline constexpr int kLocalRanksMax = 8;
/// The fewest multiprocessors of a partition (8) hold them at once; a block needs no block of another index to go on.
inline constexpr int kLocalBlocks = 32;

/// One block's place in the meetings, in device memory. Written by that block only.
struct alignas(64) LocalFlag {
  uint64_t arrived;  // meetings it has come to, two a sum
  int64_t* values;   // of the sum under way
  uint64_t count;
  uint64_t ended;  // it gave up; later sums return at once
};
/// [rank][block], zeros at the start.
struct LocalFlags {
  LocalFlag of[kLocalRanksMax][kLocalBlocks];
};

enum class LocalOutcome : uint32_t { kGood = 0, kLate = 1, kUnequalCounts = 2 };

/// In page-locked memory of the host, which kernels look at only when a peer keeps them waiting.
struct LocalControl {
  uint32_t end;                      // not 0: whoever waits gives up
  uint64_t limitNanoseconds;         // how long a kernel waits
  uint32_t outcome[kLocalRanksMax];  // LocalOutcome, by the rank that met it
};

struct LocalSum {
  LocalFlags* flags;
  LocalControl* control;
  int rank;
  int ranks;
  int64_t* values;  // (count) of this rank; becomes the sum over all ranks
  uint64_t count;
};

/// Enqueues this rank's part. The sum is done when all ranks' kernels are.
void launchLocalSum(const LocalSum& sum, cudaStream_t stream);

}  // namespace hels::cuda
