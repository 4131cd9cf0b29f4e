// Ranks with a GPU each, by NCCL, which is opened at run time. A group is formed once per epoch: rank 0 makes an
// address, everybody gets it and connects.
//
// What NCCL itself lacks is added: a deadline for forming the group and for each step, and an end from another thread.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/cuda/dynamic_library.h"
#include "comm/device_communicator.h"

namespace hels::cuda {

class NcclConnector {
 public:
  /// This rank's end of a group; it uses `device`. Throws kShapeInvalid for a rank out of range, kDeviceMissing when
  /// NCCL is missing or too old, kPeerLost when it finds no network interface.
  NcclConnector(int rank, int ranks, int device, const LibrarySearch& search = LibrarySearch::ofHost());
  ~NcclConnector();
  NcclConnector(const NcclConnector&) = delete;
  NcclConnector& operator=(const NcclConnector&) = delete;

  /// The names of the library that can be used.
  static std::vector<std::string> sonames() { return {"libnccl.so.2"}; }

  /// For the other ranks, opaque. Valid for one group.
  const std::string& address() const;

  /// Forms the group of the ranks with these addresses, in rank order, and sums once with all of them. Once. Throws
  /// kShapeInvalid (not the addresses of such a group; two ranks on one GPU), kPeerLost, kDeadlineExceeded,
  /// kDeviceLost, kAborted. After the deadline or abort() NCCL may keep one thread waiting for peers until the process
  /// ends.
  std::shared_ptr<DeviceCommunicator> connect(const std::vector<std::string>& addresses,
                                              std::chrono::nanoseconds deadline);

  /// Ends a connect(), running or to come, at once; a group that has formed stays. From any thread.
  void abort() noexcept;

 private:
  class Library;
  class Communicator;
  struct Forming;

  const int rank_;
  const int ranks_;
  const int device_;
  std::shared_ptr<const Library> library_;
  std::string address_;
  std::shared_ptr<Forming> forming_;
};

}  // namespace hels::cuda
