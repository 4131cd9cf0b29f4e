// How NCCL connects ranks (peer to peer, shared memory, network) is told by its log alone: it is written into a file of
// our own and read there.
#pragma once

#include <mutex>
#include <string>

namespace hels::cuda {

/// The connections that lines of the log name, each once: "P2P/CUMEM, NET/Socket/0"; empty when there are none. Pure.
std::string connectionsInLog(const std::string& log);

/// The environment of NCCL, for which the process has to set it before NCCL's first use; what the user has set stays:
/// - the algorithm (ring) and protocol (simple): a choice made by each rank for itself may differ between GPUs of
///   different generations, and ranks that differ wait for each other for ever;
/// - the log: into a file of ours, unless the user has the log for himself.
class NcclLog {
 public:
  /// The one of this process; the first call sets the environment.
  static NcclLog& instance();

  /// What was logged since a call last found something new, or that again: ranks of one process share the log. Empty
  /// when the log is the user's. After NCCL's first use, so that it has the file open.
  std::string take();
  /// "Ring, Simple"
  std::string pinned() const;

 private:
  NcclLog();

  std::mutex mutex_;
  int descriptor_ = -1;
  std::string path_;  // until NCCL has opened it
  std::string last_;
};

}  // namespace hels::cuda
