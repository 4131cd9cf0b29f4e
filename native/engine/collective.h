// The engine's side of the collectives: what lies around those of Communicator in every use.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "comm/communicator.h"
#include "engine/device_clock.h"

namespace hels {

/// Every wait has a deadline: that of a step or migration, or a usual one where it names none (0).
std::chrono::nanoseconds deadlineOrDefault(std::chrono::nanoseconds deadline);

class Collective {
 public:
  Collective(int rank, int ranks, DeviceClock& clock) : rank_(rank), ranks_(ranks), clock_(clock) {}

  /// Throws kShapeInvalid when its rank or number of ranks is not the shard's.
  void connect(std::shared_ptr<Communicator> communicator);
  /// Throws kShapeInvalid when ranks > 1 and connect() was not called.
  void requireConnected() const;
  void setDeadline(std::chrono::nanoseconds deadline) { deadline_ = deadline; }

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  /// Sum over all ranks; with one rank nothing happens. Emulated time is paid first, so that peers wait as for a slow
  /// device.
  void sum(std::span<int64_t> values);
  /// Bytes between pairs of ranks, as Communicator::exchange; emulated time is paid first, too.
  void exchange(std::span<const ExchangePart> parts);
  /// The same while the clock measures no compute.
  void exchangeUntimed(std::span<const ExchangePart> parts);
  /// From any thread.
  void abort() noexcept;

  uint64_t count() const { return count_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t exchangeCount() const { return exchangeCount_; }
  /// Sent and received.
  uint64_t exchangeBytes() const { return exchangeBytes_; }
  /// In exchanges, waiting for peers included.
  double exchangeSeconds() const { return exchangeSeconds_; }
  /// Processor time of the calling thread in them.
  double exchangeProcessorSeconds() const { return exchangeProcessorSeconds_; }
  /// Of exchangeSeconds(), where the communicator knows when all that was to come was there, what is left without
  /// waiting for it or for a core: a thread that spins works while it waits, one that sleeps has to get the core back,
  /// so the less of what passed since and of processor time counts.
  double exchangeWorkSeconds() const { return exchangeWorkSeconds_; }

 private:
  const int rank_;
  const int ranks_;
  DeviceClock& clock_;
  mutable std::mutex mutex_;  // guards communicator_ against abort() from another thread
  std::shared_ptr<Communicator> communicator_;
  std::chrono::nanoseconds deadline_{0};
  uint64_t count_ = 0;
  uint64_t bytes_ = 0;
  uint64_t exchangeCount_ = 0;
  uint64_t exchangeBytes_ = 0;
  double exchangeSeconds_ = 0;
  double exchangeProcessorSeconds_ = 0;
  double exchangeWorkSeconds_ = 0;
};

}  // namespace hels
