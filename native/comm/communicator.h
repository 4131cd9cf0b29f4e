// What the engine needs of the other ranks: one collective. Sums are of int64 fixed-point values, so their order and
// grouping do not matter (design: exact numerics); gathering is a sum in which each rank fills its own slots and leaves
// the others zero.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

namespace hels {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  /// How the ranks reach each other: "threads", "tcp", "shared memory".
  virtual const char* transport() const = 0;

  /// Replaces `values` by the sum over all ranks (wrap-around never happens for valid input). Every rank calls with the
  /// same length, in the same order. Throws kPeerLost, kDeadlineExceeded or kAborted; after a throw the communicator is
  /// dead.
  virtual void allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) = 0;

  /// From any thread: a running or later collective throws kAborted soon. Idempotent.
  virtual void abort() noexcept = 0;
};

}  // namespace hels
