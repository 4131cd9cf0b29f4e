// What the engine needs of the other ranks: a sum and an exchange. Sums are of int64 fixed-point values, so their order
// and grouping do not matter (design: exact numerics); gathering is a sum in which each rank fills its own slots and
// leaves the others zero. An exchange carries bytes between pairs of ranks: KV that lies with another rank.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace hels {

/// What goes to one rank and what comes from it; either may be empty.
struct ExchangePart {
  std::span<const std::byte> send;
  std::span<std::byte> receive;
};

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

  /// Sends parts[r].send to every rank r and fills parts[r].receive with what r sends to this rank. Both sides know the
  /// sizes beforehand; `parts` has one entry for each rank, this rank's own is empty. Every rank calls, those without
  /// bytes too, in the same order as its other collectives; a rank may come back before the others are done. Throws as
  /// allReduceSum does, and kShapeInvalid when a peer sends another size than is expected.
  virtual void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) = 0;

  /// When all that the last sum or exchange brings to this rank was there, which may be before a rank that waited got a
  /// core again. None: not known.
  virtual std::optional<std::chrono::steady_clock::time_point> lastReadyAt() const { return std::nullopt; }

  /// From any thread: a running or later collective throws kAborted soon. Idempotent.
  virtual void abort() noexcept = 0;
};

/// Throws kShapeInvalid unless `parts` has one entry for each of `ranks` and that of `rank` is empty.
void validateExchange(std::span<const ExchangePart> parts, int rank, int ranks);

}  // namespace hels
