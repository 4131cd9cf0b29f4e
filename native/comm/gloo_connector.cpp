#include "comm/gloo_connector.h"

#include <fcntl.h>
#include <gloo/transport/tcp/address.h>
#include <gloo/transport/tcp/attr.h>
#include <gloo/transport/tcp/device.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "comm/gloo_communicator.h"
#include "comm/shared_memory_communicator.h"
#include "comm/socket_address.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;
namespace tcp = gloo::transport::tcp;

constexpr char kSeparator = ',';
constexpr const char* kSelf = "-";
constexpr int kRanksMax = 1024;
// Gloo waits five times this for a host that does not answer at all; every other wait ends by the caller's deadline.
constexpr std::chrono::milliseconds kPairTimeout{2000};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char character : text) {
    if (character == kSeparator) {
      parts.emplace_back();
    } else {
      parts.back() += character;
    }
  }
  return parts;
}

/// Opens and drops a connection to one of our own listening ends, so that the thread that waits for a peer there goes
/// on.
void dial(const sockaddr_storage& address) {
  const int descriptor = ::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return;
  // Whether it is accepted does not matter: an end that no longer listens needs no waking.
  (void)::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), socketAddressBytes(address));
  ::close(descriptor);
}

}  // namespace

/// What abort() ends.
struct GlooConnector::Forming {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false;
  std::weak_ptr<GlooCommunicator> greeting;  // its pairs are connected, the ranks make sure of each other

  /// Throws kAborted after an abort().
  void requireGoingOn() {
    const std::lock_guard lock(mutex);
    require(!aborted, ErrorCode::kAborted, "the forming of the group was aborted");
  }
  void setGreeting(const std::shared_ptr<GlooCommunicator>& communicator) {
    const std::lock_guard lock(mutex);
    greeting = communicator;
  }
};

/// Gloo's wait for a peer to dial in takes no deadline. When ours passes, or at an abort(), this thread dials in the
/// peer's place, and again until the connecting thread has noticed.
class GlooConnector::DialWatchdog {
 public:
  DialWatchdog(Forming& forming, std::vector<sockaddr_storage> ownEnds, Clock::time_point deadlineAt)
      : forming_(forming), ownEnds_(std::move(ownEnds)), deadlineAt_(deadlineAt), thread_([this] { run(); }) {}

  ~DialWatchdog() {
    {
      const std::lock_guard lock(forming_.mutex);
      done_ = true;
    }
    forming_.changed.notify_all();
    thread_.join();
  }
  DialWatchdog(const DialWatchdog&) = delete;
  DialWatchdog& operator=(const DialWatchdog&) = delete;

 private:
  void run() {
    constexpr std::chrono::milliseconds kRetry{20};
    std::unique_lock lock(forming_.mutex);
    forming_.changed.wait_until(lock, deadlineAt_, [this] { return done_ || forming_.aborted; });
    while (!done_) {
      for (const sockaddr_storage& end : ownEnds_) dial(end);
      forming_.changed.wait_for(lock, kRetry, [this] { return done_; });
    }
  }

  Forming& forming_;
  const std::vector<sockaddr_storage> ownEnds_;
  const Clock::time_point deadlineAt_;
  bool done_ = false;  // guarded by forming_.mutex
  std::thread thread_;
};

struct GlooConnector::State {
  int rank = 0;
  int ranks = 1;
  std::shared_ptr<gloo::transport::Device> device;
  std::shared_ptr<gloo::transport::Context> context;

  std::vector<sockaddr_storage> ownEnds() const {
    std::vector<sockaddr_storage> ends;
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer != rank) ends.push_back(endFor(peer));
    }
    return ends;
  }

  sockaddr_storage endFor(int peer) const {
    return dynamic_cast<const tcp::Address&>(context->getPair(peer)->address()).getSockaddr();
  }

  /// Where each peer's end for this rank listens, by rank; our own entry is unused.
  std::vector<sockaddr_storage> peerEnds(const std::vector<std::string>& addresses) const {
    require(addresses.size() == static_cast<size_t>(ranks), ErrorCode::kShapeInvalid,
            "addresses has " + std::to_string(addresses.size()) + " entries; it must have one for each of the " +
                std::to_string(ranks) + " ranks");
    std::vector<sockaddr_storage> ends(addresses.size());
    for (size_t peer = 0; peer < addresses.size(); ++peer) {
      if (peer == static_cast<size_t>(rank)) continue;
      const std::vector<std::string> parts = split(addresses[peer]);
      require(parts.size() == addresses.size() && parts[peer] == kSelf, ErrorCode::kShapeInvalid,
              "addresses[" + std::to_string(peer) + "] is not what rank " + std::to_string(peer) + " of " +
                  std::to_string(ranks) + " returned as its address: '" + addresses[peer].substr(0, 200) + "'");
      ends[peer] = parseSocketAddress(parts[static_cast<size_t>(rank)]);
    }
    return ends;
  }

  void connectPairs(Forming& forming, const std::vector<sockaddr_storage>& ends, Clock::time_point deadlineAt) const {
    forming.requireGoingOn();
    const DialWatchdog watchdog(forming, ownEnds(), deadlineAt);
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer == rank) continue;
      try {
        context->getPair(peer)->connect(tcp::Address(ends[static_cast<size_t>(peer)]).bytes());
      } catch (const std::exception& failure) {
        forming.requireGoingOn();
        const bool late = Clock::now() >= deadlineAt;
        throw Error(late ? ErrorCode::kDeadlineExceeded : ErrorCode::kPeerLost,
                    "cannot connect to rank " + std::to_string(peer) + ": " + failure.what());
      }
      forming.requireGoingOn();
      require(Clock::now() < deadlineAt, ErrorCode::kDeadlineExceeded,
              "rank " + std::to_string(peer) + " did not connect in time");
    }
  }
};

GlooConnector::GlooConnector(int rank, int ranks, const std::string& hostname)
    : state_(std::make_unique<State>()), forming_(std::make_unique<Forming>()) {
  require(1 <= ranks && ranks <= kRanksMax, ErrorCode::kShapeInvalid,
          "ranks is " + std::to_string(ranks) + "; it must lie from 1 to " + std::to_string(kRanksMax));
  require(0 <= rank && rank < ranks, ErrorCode::kShapeInvalid,
          "rank is " + std::to_string(rank) + "; it must lie from 0 to " + std::to_string(ranks - 1));
  state_->rank = rank;
  state_->ranks = ranks;
  const std::string bindable = bindableAddress(hostname);
  try {
    state_->device = tcp::CreateDevice(tcp::attr(bindable.c_str()));
    state_->context = state_->device->createContext(rank, ranks);
    state_->context->setTimeout(kPairTimeout);
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer != rank) state_->context->createPair(peer);
    }
  } catch (const std::exception& failure) {
    throw Error(ErrorCode::kInternal, "cannot listen on " + bindable + ": " + failure.what());
  }
}

GlooConnector::~GlooConnector() = default;

std::string GlooConnector::address() const {
  require(state_->context != nullptr, ErrorCode::kShapeInvalid, "address() was called after connect()");
  std::string text;
  for (int peer = 0; peer < state_->ranks; ++peer) {
    if (peer > 0) text += kSeparator;
    text += peer == state_->rank ? kSelf : socketAddressText(state_->endFor(peer));
  }
  return text;
}

std::shared_ptr<Communicator> GlooConnector::connect(const std::vector<std::string>& addresses,
                                                     std::chrono::milliseconds deadline, Transport transport) {
  const Clock::time_point deadlineAt = Clock::now() + deadline;
  require(state_->context != nullptr, ErrorCode::kShapeInvalid, "connect() was called twice");
  const std::vector<sockaddr_storage> ends = state_->peerEnds(addresses);
  // From here on a failure leaves half-open connections behind: the connector is used up.
  State state = std::exchange(
      *state_, State{.rank = state_->rank, .ranks = state_->ranks, .device = nullptr, .context = nullptr});
  const auto communicator = std::make_shared<GlooCommunicator>(state.device, state.context);
  state.connectPairs(*forming_, ends, deadlineAt);
  forming_->setGreeting(communicator);
  forming_->requireGoingOn();
  communicator->start(deadlineAt);
  std::shared_ptr<Communicator> formed = communicator;
  if (transport == Transport::kBest) formed = shareMemory(communicator, deadlineAt - Clock::now());
  forming_->setGreeting(nullptr);
  forming_->requireGoingOn();
  return formed;
}

void GlooConnector::abort() noexcept {
  std::shared_ptr<GlooCommunicator> greeting;
  {
    const std::lock_guard lock(forming_->mutex);
    forming_->aborted = true;
    greeting = forming_->greeting.lock();
  }
  forming_->changed.notify_all();
  if (greeting != nullptr) greeting->abort();
}

}  // namespace hels
