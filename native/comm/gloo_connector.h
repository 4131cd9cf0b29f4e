// Forms a group of processes over TCP in two phases, with no rendezvous server: every rank opens its ends and says
// where they are, the controller hands everybody all addresses, every rank connects.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace hels {

/// kTcp: over the connections alone. kBest: through shared memory when all ranks are on one host.
enum class Transport : uint8_t { kTcp, kBest };

class GlooConnector {
 public:
  /// Listens on `hostname` (a name or an IP address of this host that the peers can reach). Throws kShapeInvalid for a
  /// bad rank or a hostname that does not name this host.
  GlooConnector(int rank, int ranks, const std::string& hostname);
  ~GlooConnector();
  GlooConnector(const GlooConnector&) = delete;
  GlooConnector& operator=(const GlooConnector&) = delete;

  /// Where this rank's ends listen: printable ASCII, at most 60 bytes for each rank of the group. Meant for connect()
  /// of the peers.
  std::string address() const;

  /// Connects to all peers; `addresses` holds address() of every rank in rank order, this one included. All ranks ask
  /// for the same transport. May be called once. Throws kShapeInvalid for a malformed address, kPeerLost,
  /// kDeadlineExceeded or kAborted.
  std::shared_ptr<Communicator> connect(const std::vector<std::string>& addresses, std::chrono::milliseconds deadline,
                                        Transport transport = Transport::kBest);

  /// Ends a connect(), running or to come, at once; a group that has formed stays. A peer's host that answers nothing
  /// at all is waited for, up to 10 s. From any thread.
  void abort() noexcept;

 private:
  struct State;
  struct Forming;
  class DialWatchdog;
  std::unique_ptr<State> state_;
  std::unique_ptr<Forming> forming_;
};

}  // namespace hels
