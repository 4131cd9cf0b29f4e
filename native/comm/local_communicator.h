// The ranks of one process: a collective between threads.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace hels {

class LocalGroup {
 public:
  /// A group of `ranks` communicators. Throws kShapeInvalid unless ranks >= 1.
  static std::shared_ptr<LocalGroup> create(int ranks);
  virtual ~LocalGroup() = default;

  virtual int ranks() const = 0;
  /// The communicator of `rank`; the same object on every call. It may outlive the group. Throws kShapeInvalid for a
  /// rank out of range.
  virtual std::shared_ptr<Communicator> communicator(int rank) const = 0;
};

/// The communicators of a new group, in rank order.
std::vector<std::shared_ptr<Communicator>> createLocalGroup(int ranks);

}  // namespace hels
