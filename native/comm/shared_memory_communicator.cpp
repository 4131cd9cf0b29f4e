#include "comm/shared_memory_communicator.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/gloo_communicator.h"
#include "comm/shared_segment.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kChunkValues = 32768;  // 256 KiB: a rank's two slots stay in its second-level cache
// Peers that have a core of their own come within microseconds. Then looking is cheapest; after that the core is
// offered to whom may lack one; after that sleeping costs others nothing. A rank that shares its cores with more ranks
// than there are waits for one that needs them, and sleeps at once.
constexpr int kLooks = 64;
constexpr std::chrono::microseconds kYielding{1000};
/// A sleeper looks this often whether the peer still lives.
constexpr std::chrono::milliseconds kSleep{20};

/// Values that a rank adds to one sum.
struct Slot {
  Clock::rep publishedAt;  // one clock for all processes of the machine
  int64_t count;           // of the whole sum, to find ranks that sum different things
  std::array<int64_t, kChunkValues> values;
};

/// One rank's part of the segment. A rank writes its slots in turn: it can be at most one sum ahead of a peer, because
/// it needs that peer's values to finish one.
struct RankArea {
  cpu_set_t cores;        // that this rank may run on
  SharedCounter arrived;  // the sum that this rank's values are there for
  std::array<Slot, 2> slots;
};

constexpr size_t kPacketBytes = size_t{64} * 1024;
constexpr uint32_t kPackets = 2;

/// A piece of what one rank sends to another in one exchange.
struct Packet {
  Clock::rep publishedAt;
  int64_t exchange;  // number of the exchange and its bytes for this pair, to find ranks that exchange different things
  int64_t size;
  std::array<std::byte, kPacketBytes> bytes;
};

/// From one rank to another, written in turn. Free of deadlock although sizes are uneven: all ranks go step by step, in
/// step n the n-th packets to all peers and then those from all. The rank that is furthest behind never waits for a
/// free packet, because its peers have read the packets of all earlier steps, nor for a full one, because they have
/// written those of its own.
struct Mailbox {
  SharedCounter filled;  // packets ever written
  SharedCounter taken;   // packets ever read
  std::array<Packet, kPackets> packets;
};

struct alignas(64) Header {
  std::array<std::byte, 64> ofSegment;
  std::atomic<uint32_t> broken;  // a rank has given up
};

/// Of the calling thread; all when the system does not tell.
cpu_set_t allowedCores() {
  cpu_set_t cores;
  if (::sched_getaffinity(0, sizeof(cores), &cores) != 0) std::memset(&cores, 0xFF, sizeof(cores));
  return cores;
}

/// The header, an area for each rank, a mailbox for each pair; pages that are never used take no memory.
size_t segmentBytes(int ranks) {
  const auto count = static_cast<size_t>(ranks);
  return sizeof(Header) + count * sizeof(RankArea) + count * count * sizeof(Mailbox);
}

RankArea& areaOf(const SharedSegment& segment, int rank) {
  return reinterpret_cast<RankArea*>(segment.data() + sizeof(Header))[rank];
}

/// Whether a rank has fewer cores than there are ranks that may run on them. One that is held to other cores later
/// waits as if it were not.
bool sharesCores(const SharedSegment& segment, int rank, int ranks) {
  const cpu_set_t& own = areaOf(segment, rank).cores;
  int there = 0;
  for (int other = 0; other < ranks; ++other) {
    cpu_set_t both;
    CPU_AND(&both, &own, &areaOf(segment, other).cores);
    if (CPU_COUNT(&both) > 0) ++there;
  }
  return there > CPU_COUNT(&own);
}

class SharedMemoryCommunicator final : public Communicator {
 public:
  SharedMemoryCommunicator(std::shared_ptr<GlooCommunicator> connections, SharedSegment segment)
      : connections_(std::move(connections)),
        segment_(std::move(segment)),
        sent_(static_cast<size_t>(ranks())),
        received_(static_cast<size_t>(ranks())),
        crowded_(sharesCores(segment_, rank(), ranks())) {}
  // One that leaves in order does not break the group: others may still exchange among themselves, and whoever waits
  // for this rank sees that its connection has ended.
  ~SharedMemoryCommunicator() override { leave(); }
  SharedMemoryCommunicator(const SharedMemoryCommunicator&) = delete;
  SharedMemoryCommunicator& operator=(const SharedMemoryCommunicator&) = delete;

  int rank() const override { return connections_->rank(); }
  int ranks() const override { return connections_->ranks(); }
  const char* transport() const override { return "shared memory"; }

  void allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) override {
    run(deadline, [&] {
      for (size_t begin = 0; begin < values.size(); begin += kChunkValues) {
        sumChunk(values.subspan(begin, std::min(kChunkValues, values.size() - begin)), values.size());
      }
    });
  }

  void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) override {
    validateExchange(parts, rank(), ranks());
    size_t longest = 0;
    for (const ExchangePart& part : parts) longest = std::max({longest, part.send.size(), part.receive.size()});
    run(deadline, [&] {
      ++exchange_;
      lastReadyAt_ = Clock::now();
      for (size_t begin = 0; begin < longest; begin += kPacketBytes) {
        for (int peer = 0; peer < ranks(); ++peer) sendPacket(peer, parts[static_cast<size_t>(peer)].send, begin);
        for (int peer = 0; peer < ranks(); ++peer) receivePacket(peer, parts[static_cast<size_t>(peer)].receive, begin);
      }
    });
  }

  std::optional<Clock::time_point> lastReadyAt() const override { return lastReadyAt_; }

  void abort() noexcept override {
    aborted_.store(true);
    breakGroup();
  }

 private:
  Header& header() const { return *reinterpret_cast<Header*>(segment_.data()); }
  RankArea& area(int rank) const { return areaOf(segment_, rank); }
  Mailbox& mailbox(int from, int to) const {
    std::byte* first = segment_.data() + sizeof(Header) + static_cast<size_t>(ranks()) * sizeof(RankArea);
    return reinterpret_cast<Mailbox*>(first)[from * ranks() + to];
  }

  template <typename Body>
  void run(std::chrono::nanoseconds deadline, const Body& body) {
    deadline_ = deadline;
    deadlineAt_ = Clock::now() + deadline;
    // After a failure nothing may be published: a peer would take it for its next collective.
    require(!aborted_, ErrorCode::kAborted, "the collective was aborted");
    require(header().broken.load() == 0, ErrorCode::kPeerLost, "a rank left the group");
    try {
      body();
    } catch (const Error&) {
      breakGroup();  // the peers must not wait for this rank any longer
      throw;
    }
  }

  void sendPacket(int peer, std::span<const std::byte> bytes, size_t begin) {
    if (begin >= bytes.size()) return;
    Mailbox& box = mailbox(rank(), peer);
    uint32_t& sent = sent_[static_cast<size_t>(peer)];
    const uint32_t taken = sent + 1 - kPackets;  // at once for the first ones: what was taken starts at 0
    if (!box.taken.reached(taken)) {
      await(peer, box.taken, taken);
      // Until the peer takes the first packet it has not come to this exchange; from then on both copy.
      if (begin == kPackets * kPacketBytes) lastReadyAt_ = Clock::now();
    }
    Packet& packet = box.packets[sent % kPackets];
    packet.exchange = exchange_;
    packet.size = static_cast<int64_t>(bytes.size());
    std::ranges::copy(bytes.subspan(begin, std::min(kPacketBytes, bytes.size() - begin)), packet.bytes.begin());
    packet.publishedAt = Clock::now().time_since_epoch().count();
    box.filled.publish(++sent);
  }

  void receivePacket(int peer, std::span<std::byte> bytes, size_t begin) {
    if (begin >= bytes.size()) return;
    Mailbox& box = mailbox(peer, rank());
    uint32_t& received = received_[static_cast<size_t>(peer)];
    await(peer, box.filled, received + 1);
    const Packet& packet = box.packets[received % kPackets];
    require(packet.exchange == exchange_ && packet.size == static_cast<int64_t>(bytes.size()), ErrorCode::kShapeInvalid,
            "rank " + std::to_string(peer) + " sends " + std::to_string(packet.size) + " bytes in its exchange " +
                std::to_string(packet.exchange) + ", rank " + std::to_string(rank()) + " expects " +
                std::to_string(bytes.size()) + " in its exchange " + std::to_string(exchange_) +
                "; all ranks must make the same calls");
    const std::span<std::byte> target = bytes.subspan(begin, std::min(kPacketBytes, bytes.size() - begin));
    std::copy_n(packet.bytes.begin(), target.size(), target.begin());
    noteReady(packet.publishedAt);
    box.taken.publish(++received);
  }

  void sumChunk(std::span<int64_t> values, size_t count) {
    ++sequence_;
    RankArea& own = area(rank());
    Slot& slot = own.slots[sequence_ % 2];
    slot.count = static_cast<int64_t>(count);
    std::ranges::copy(values, slot.values.begin());
    lastReadyAt_ = Clock::now();
    slot.publishedAt = lastReadyAt_.time_since_epoch().count();
    own.arrived.publish(sequence_);
    for (int step = 1; step < ranks(); ++step) {
      const int peer = (rank() + step) % ranks();
      await(peer, area(peer).arrived, sequence_);
      const Slot& other = area(peer).slots[sequence_ % 2];
      add(other, peer, values, count);
      noteReady(other.publishedAt);
    }
  }

  void noteReady(Clock::rep publishedAt) {
    lastReadyAt_ = std::max(lastReadyAt_, Clock::time_point(Clock::duration(publishedAt)));
  }

  void add(const Slot& slot, int peer, std::span<int64_t> values, size_t count) const {
    require(slot.count == static_cast<int64_t>(count), ErrorCode::kShapeInvalid,
            "rank " + std::to_string(peer) + " sums " + std::to_string(slot.count) + " values, rank " +
                std::to_string(rank()) + " sums " + std::to_string(count) + "; all ranks must make the same calls");
    for (size_t i = 0; i < values.size(); ++i) values[i] += slot.values[i];
  }

  /// Until `counter`, which `peer` raises, has come to `value`.
  void await(int peer, SharedCounter& counter, uint32_t value) {
    for (int look = 0; look < kLooks; ++look) {
      if (counter.reached(value)) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    const Clock::time_point sleepAt = Clock::now() + kYielding;
    while (!crowded_ && Clock::now() < sleepAt) {
      if (counter.reached(value)) return;
      ::sched_yield();
    }
    while (!counter.reached(value)) {
      requireGoing(peer, counter, value);
      const std::chrono::nanoseconds left = deadlineAt_ - Clock::now();
      counter.sleepUntil(value, std::clamp<std::chrono::nanoseconds>(left, std::chrono::microseconds(1), kSleep));
    }
  }

  void requireGoing(int peer, const SharedCounter& counter, uint32_t value) const {
    require(!aborted_, ErrorCode::kAborted, "the collective was aborted");
    const bool gone = header().broken.load() != 0 || connections_->hasLeft(peer);
    // Its last values may have come between the look at the counter and its end.
    require(!gone || counter.reached(value), ErrorCode::kPeerLost,
            "rank " + std::to_string(peer) + " or one it waits for left the group");
    require(Clock::now() < deadlineAt_, ErrorCode::kDeadlineExceeded,
            "the collective of " + std::to_string(ranks()) + " ranks did not end within " +
                std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(deadline_).count()) +
                " ms: rank " + std::to_string(peer) + " did not come");
  }

  void breakGroup() noexcept {
    header().broken.store(1);
    leave();
  }

  void leave() noexcept {
    for (int other = 0; other < ranks(); ++other) {
      area(other).arrived.wakeAll();
      for (Mailbox* box : {&mailbox(rank(), other), &mailbox(other, rank())}) {
        box->filled.wakeAll();
        box->taken.wakeAll();
      }
    }
    connections_->abort();
  }

  const std::shared_ptr<GlooCommunicator> connections_;
  const SharedSegment segment_;
  uint32_t sequence_ = 0;
  Clock::time_point lastReadyAt_;
  int64_t exchange_ = 0;
  std::vector<uint32_t> sent_;      // packets, by peer; wraps around
  std::vector<uint32_t> received_;  // packets, by peer
  const bool crowded_;              // this rank has fewer cores than ranks that may run there
  std::chrono::nanoseconds deadline_{0};
  Clock::time_point deadlineAt_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::shared_ptr<Communicator> shareMemory(std::shared_ptr<GlooCommunicator> connections,
                                          std::chrono::nanoseconds deadline) {
  if (connections->ranks() == 1) return connections;
  const size_t bytes = segmentBytes(connections->ranks());
  // A sum to which only rank 0 adds hands its offer to everybody.
  const bool first = connections->rank() == 0;
  std::optional<SharedSegment> segment = first ? SharedSegment::create(bytes) : std::nullopt;
  const SegmentOffer own = segment ? segment->offer() : SegmentOffer{};
  std::array<int64_t, 3> offer{own.process, own.descriptor, own.key};
  connections->allReduceSum(offer, deadline);
  if (!first) segment = SharedSegment::attach({offer[0], offer[1], offer[2]}, bytes);
  if (segment) areaOf(*segment, connections->rank()).cores = allowedCores();
  std::array<int64_t, 1> attached{segment ? 1 : 0};
  connections->allReduceSum(attached, deadline);
  if (attached[0] < connections->ranks()) return connections;
  segment->closeOffer();
  return std::make_shared<SharedMemoryCommunicator>(std::move(connections), std::move(*segment));
}

}  // namespace hels
