// Forms the group of an epoch with the best collective that all its ranks have: NCCL where every rank has a GPU of its
// own, else the host's (through which a rank on a GPU sums as well, so that CPU and GPU ranks can share a group).
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/gloo_connector.h"
#include "engine/engine.h"

namespace hels {

namespace cuda {
class NcclConnector;
}

class GroupConnector {
 public:
  /// This rank's end, reachable under `hostname`; `device` as in EngineOptions. A rank on a GPU without NCCL offers the
  /// host's collective alone. Throws as GlooConnector does.
  GroupConnector(int rank, int ranks, const std::string& hostname, const std::string& device);
  ~GroupConnector();
  GroupConnector(const GroupConnector&) = delete;
  GroupConnector& operator=(const GroupConnector&) = delete;

  /// For connect() of the others: printable ASCII.
  std::string address() const;

  /// Connects `engine` with the ranks of these addresses, in rank order; all of them choose the same collective, by the
  /// addresses alone. Once; `deadline` is for all of it. Returns how the ranks reach each other. Throws kShapeInvalid,
  /// kPeerLost, kDeadlineExceeded, kDeviceLost, kAborted.
  std::string connect(Engine& engine, const std::vector<std::string>& addresses, std::chrono::milliseconds deadline);

  /// Ends a connect(), running or to come, at once (see GlooConnector::abort); what comes after it ends with the
  /// engine. From any thread.
  void abort() noexcept;

 private:
  std::string form(Engine& engine, const std::vector<std::string>& addresses,
                   std::chrono::steady_clock::time_point deadlineAt);

  std::atomic<bool> aborted_{false};
  GlooConnector host_;
  std::string gpu_;  // of this rank, unlike that of any other GPU; empty without NCCL
  std::unique_ptr<cuda::NcclConnector> devices_;
};

/// An address in its parts: "host" or "host|gpu|nccl".
struct GroupAddress {
  std::string host;
  std::string gpu;   // which GPU of all there are; empty when the rank has no NCCL
  std::string nccl;  // NcclConnector's address
};
/// Throws kShapeInvalid for text of another form.
GroupAddress parseGroupAddress(const std::string& text);
/// Whether every rank has NCCL and a GPU that no other rank has. Pure.
bool haveOwnGpus(const std::vector<GroupAddress>& addresses);

}  // namespace hels
