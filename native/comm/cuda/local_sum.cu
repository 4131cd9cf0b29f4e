#include <algorithm>

#include "comm/cuda/local_sum.h"
#include "kernels/cuda/device.h"

#ifdef HELS_CUDA_EMULATION
#include <sched.h>

#include <chrono>
#endif

namespace hels::cuda {
namespace {

constexpr int kThreads = 512;
// A peer that is near comes within this many looks; only then are the host's memory and the clock worth looking at.
constexpr int kQuickLooks = 256;

template <typename Value>
__device__ __forceinline__ Value loadShared(const Value* address) {
#ifdef HELS_CUDA_EMULATION
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
#else
  return *static_cast<const volatile Value*>(address);
#endif
}

template <typename Value>
__device__ __forceinline__ void storeShared(Value* address, Value value) {
#ifdef HELS_CUDA_EMULATION
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
#else
  *static_cast<volatile Value*>(address) = value;
#endif
}

__device__ __forceinline__ uint64_t nanosecondClock() {
#ifdef HELS_CUDA_EMULATION
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#else
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
#endif
}

__device__ __forceinline__ void rest() {
#ifdef HELS_CUDA_EMULATION
  ::sched_yield();
#elif __CUDA_ARCH__ >= 700
  __nanosleep(100);
#endif
}

/// Ends this block's part for good, and everybody's wait.
__device__ void giveUp(const LocalSum& sum, LocalFlag& own, LocalOutcome outcome) {
  own.ended = 1;
  if (outcome == LocalOutcome::kGood) return;  // somebody else's reason
  storeShared(&sum.control->outcome[sum.rank], static_cast<uint32_t>(outcome));
  __threadfence_system();
  storeShared(&sum.control->end, 1U);
}

/// Waits until every rank's block of this index has come to `meeting`. One thread calls it. False: the wait is over.
__device__ bool meet(const LocalSum& sum, LocalFlag& own, uint64_t meeting) {
  __threadfence();  // what this block wrote is seen before its arrival
  storeShared(&own.arrived, meeting);
  const uint64_t start = nanosecondClock();
  for (int rank = 0; rank < sum.ranks; ++rank) {
    const LocalFlag& peer = sum.flags->of[rank][blockIdx.x];
    for (int look = 0; loadShared(&peer.arrived) < meeting; ++look) {
      if (look < kQuickLooks) continue;
      if (loadShared(&sum.control->end) != 0) {
        giveUp(sum, own, LocalOutcome::kGood);
        return false;
      }
      if (nanosecondClock() - start > loadShared(&sum.control->limitNanoseconds)) {
        giveUp(sum, own, LocalOutcome::kLate);
        return false;
      }
      rest();
    }
  }
  __threadfence();  // what the peers wrote before theirs is seen after it
  return true;
}

/// Replaces this rank's part of the block's values by the sums, in the memory of every rank.
__device__ void sumPart(const LocalSum& sum, int64_t* const* values) {
  const uint64_t parts = static_cast<uint64_t>(gridDim.x) * static_cast<uint64_t>(sum.ranks);
  const uint64_t part = blockIdx.x * static_cast<uint64_t>(sum.ranks) + static_cast<uint64_t>(sum.rank);
  const uint64_t begin = sum.count * part / parts;
  const uint64_t end = sum.count * (part + 1) / parts;
#ifndef HELS_CUDA_EMULATION
#pragma unroll 4
#endif
  for (uint64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    int64_t total = 0;
    for (int rank = 0; rank < sum.ranks; ++rank) total += values[rank][i];
    for (int rank = 0; rank < sum.ranks; ++rank) values[rank][i] = total;
  }
}

__global__ void __launch_bounds__(kThreads) localSumKernel(LocalSum sum) {
  __shared__ int64_t* values[kLocalRanksMax];
  __shared__ int going;
  LocalFlag& own = sum.flags->of[sum.rank][blockIdx.x];
  const uint64_t meeting = own.arrived;
  if (threadIdx.x == 0) {
    going = own.ended == 0 ? 1 : 0;
    if (going != 0) {
      own.values = sum.values;
      own.count = sum.count;
      going = meet(sum, own, meeting + 1) ? 1 : 0;
    }
    for (int rank = 0; going != 0 && rank < sum.ranks; ++rank) {
      const LocalFlag& peer = sum.flags->of[rank][blockIdx.x];
      values[rank] = peer.values;
      if (peer.count == sum.count) continue;
      giveUp(sum, own, LocalOutcome::kUnequalCounts);
      going = 0;
    }
  }
  __syncthreads();
  if (going == 0) return;
  sumPart(sum, values);
  __syncthreads();
  if (threadIdx.x == 0) meet(sum, own, meeting + 2);
}

}  // namespace

void launchLocalSum(const LocalSum& sum, cudaStream_t stream) {
  const uint64_t useful = (sum.count + kThreads - 1) / kThreads;
  const auto blocks = static_cast<unsigned>(std::clamp<uint64_t>(useful, 1, kLocalBlocks));
  launch(localSumKernel, dim3(blocks), dim3(kThreads), 0, stream, sum);
}

}  // namespace hels::cuda
