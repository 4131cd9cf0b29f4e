#include "comm/local_communicator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;

/// Why a group is dead, and who ended it.
struct Failure {
  ErrorCode code;
  int rank;
  std::string message;
};

// A barrier is mostly met within microseconds when all ranks have a core; then sleeping costs more than looking again.
constexpr int kSpins = 500;

/// What the ranks share. All values pass through memory of the group, so a rank that gives up leaves no pointer behind.
class GroupState {
 public:
  explicit GroupState(int ranks) : ranks_(ranks), inputs_(static_cast<size_t>(ranks)) {
    for (Mail& mail : mails_) mail.resize(inputs_.size());
  }

  int ranks() const { return ranks_; }

  void allReduceSum(int rank, std::span<int64_t> values, Clock::time_point deadlineAt) {
    inputs_[static_cast<size_t>(rank)].assign(values.begin(), values.end());
    meet(rank, deadlineAt, [this] { checkLengths(); });
    sumSlice(rank, values.size());
    meet(rank, deadlineAt, [] {});
    // The next sum writes sums_ only after every rank has come back for it.
    std::copy(sums_.begin(), sums_.end(), values.begin());
  }

  void exchange(int rank, std::span<const ExchangePart> parts, uint64_t exchange, Clock::time_point deadlineAt) {
    // In turns: who writes for the next but one exchange has met everybody for the next, after they had read this one.
    Mail& mail = mails_[exchange % mails_.size()];
    Outbox& outbox = mail[static_cast<size_t>(rank)];
    outbox.letters.resize(parts.size());
    outbox.expected.resize(parts.size());
    for (size_t peer = 0; peer < parts.size(); ++peer) {
      outbox.letters[peer].assign(parts[peer].send.begin(), parts[peer].send.end());
      outbox.expected[peer] = parts[peer].receive.size();
    }
    meet(rank, deadlineAt, [&] { checkLetters(mail); });
    for (size_t peer = 0; peer < parts.size(); ++peer) {
      std::ranges::copy(mail[peer].letters[static_cast<size_t>(rank)], parts[peer].receive.begin());
    }
  }

  /// The group cannot continue without `rank`. The first reason stays.
  void fail(Failure failure) {
    const std::lock_guard lock(mutex_);
    setFailure(std::move(failure));
  }

 private:
  /// One rank's part of an exchange, each by peer.
  struct Outbox {
    std::vector<std::vector<std::byte>> letters;
    std::vector<size_t> expected;
  };
  using Mail = std::vector<Outbox>;  // by rank

  /// Waits for all ranks; the last to come runs `complete` before anybody goes on.
  template <typename Complete>
  void meet(int rank, Clock::time_point deadlineAt, const Complete& complete) {
    std::unique_lock lock(mutex_);
    throwFailure(rank);
    const uint64_t meeting = meeting_.load(std::memory_order_relaxed);
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      complete();
      throwFailure(rank);
      meeting_.store(meeting + 1, std::memory_order_release);
      met_.notify_all();
      return;
    }
    lock.unlock();
    for (int spin = 0; spin < kSpins && meeting_.load(std::memory_order_acquire) == meeting; ++spin) {
    }
    lock.lock();
    const auto over = [&] { return meeting_.load(std::memory_order_relaxed) != meeting || failure_.has_value(); };
    const bool inTime = met_.wait_until(lock, deadlineAt, over);
    if (meeting_.load(std::memory_order_relaxed) != meeting) return;
    if (!inTime) {
      setFailure({ErrorCode::kDeadlineExceeded, rank,
                  "the collective did not end in time: " + std::to_string(arrived_) + " of " + std::to_string(ranks_) +
                      " ranks came"});
    }
    throwFailure(rank);
  }

  /// Runs with the lock held, when all inputs are there.
  void checkLengths() {
    for (size_t rank = 1; rank < inputs_.size(); ++rank) {
      if (inputs_[rank].size() == inputs_[0].size()) continue;
      setFailure({ErrorCode::kShapeInvalid, static_cast<int>(rank),
                  "rank " + std::to_string(rank) + " sums " + std::to_string(inputs_[rank].size()) +
                      " values, rank 0 sums " + std::to_string(inputs_[0].size()) +
                      "; all ranks must sum equally many"});
      return;
    }
    sums_.resize(inputs_[0].size());
  }

  /// Runs with the lock held, when all outboxes are there.
  void checkLetters(const Mail& mail) {
    for (size_t from = 0; from < mail.size(); ++from) {
      for (size_t to = 0; to < mail.size(); ++to) {
        const size_t sent = mail[from].letters[to].size();
        const size_t expected = mail[to].expected[from];
        if (sent == expected) continue;
        setFailure({ErrorCode::kShapeInvalid, static_cast<int>(from),
                    "rank " + std::to_string(from) + " sends " + std::to_string(sent) + " bytes to rank " +
                        std::to_string(to) + ", which expects " + std::to_string(expected) +
                        "; both must name the same size"});
        return;
      }
    }
  }

  /// Every rank sums an equal part of the values.
  void sumSlice(int rank, size_t count) {
    const auto part = static_cast<size_t>(rank);
    const auto parts = static_cast<size_t>(ranks_);
    const size_t begin = count * part / parts;
    const size_t end = count * (part + 1) / parts;
    for (size_t i = begin; i < end; ++i) {
      int64_t sum = 0;
      for (const std::vector<int64_t>& input : inputs_) sum += input[i];
      sums_[i] = sum;
    }
  }

  void setFailure(Failure failure) {
    if (!failure_) failure_ = std::move(failure);
    met_.notify_all();
  }

  void throwFailure(int rank) const {
    if (!failure_) return;
    if (failure_->rank == rank || failure_->code == ErrorCode::kShapeInvalid)
      throw Error(failure_->code, failure_->message);
    throw Error(ErrorCode::kPeerLost,
                "rank " + std::to_string(failure_->rank) + " left the group: " + failure_->message);
  }

  const int ranks_;
  std::mutex mutex_;
  std::condition_variable met_;
  std::atomic<uint64_t> meeting_{0};
  int arrived_ = 0;
  std::optional<Failure> failure_;
  std::vector<std::vector<int64_t>>
      inputs_;                 // by rank; written by that rank before the first meeting, read by all after it
  std::vector<int64_t> sums_;  // written between the two meetings, each rank its part
  std::array<Mail, 2> mails_;  // of even and odd exchanges
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(int rank, std::shared_ptr<GroupState> group) : rank_(rank), group_(std::move(group)) {}
  ~LocalCommunicator() override { group_->fail({ErrorCode::kPeerLost, rank_, "its communicator was destroyed"}); }
  LocalCommunicator(const LocalCommunicator&) = delete;
  LocalCommunicator& operator=(const LocalCommunicator&) = delete;

  int rank() const override { return rank_; }
  int ranks() const override { return group_->ranks(); }
  const char* transport() const override { return "threads"; }

  void allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) override {
    group_->allReduceSum(rank_, values, Clock::now() + deadline);
  }

  void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) override {
    validateExchange(parts, rank_, ranks());
    group_->exchange(rank_, parts, exchanges_++, Clock::now() + deadline);
  }

  void abort() noexcept override { group_->fail({ErrorCode::kAborted, rank_, "the collective was aborted"}); }

 private:
  const int rank_;
  const std::shared_ptr<GroupState> group_;
  uint64_t exchanges_ = 0;
};

class LocalGroupOfThreads final : public LocalGroup {
 public:
  explicit LocalGroupOfThreads(int ranks) {
    const auto state = std::make_shared<GroupState>(ranks);
    for (int rank = 0; rank < ranks; ++rank) communicators_.push_back(std::make_shared<LocalCommunicator>(rank, state));
  }

  int ranks() const override { return static_cast<int>(communicators_.size()); }

  std::shared_ptr<Communicator> communicator(int rank) const override {
    require(0 <= rank && rank < ranks(), ErrorCode::kShapeInvalid,
            "rank is " + std::to_string(rank) + "; the group has ranks 0 to " + std::to_string(ranks() - 1));
    return communicators_[static_cast<size_t>(rank)];
  }

 private:
  std::vector<std::shared_ptr<Communicator>> communicators_;
};

}  // namespace

std::shared_ptr<LocalGroup> LocalGroup::create(int ranks) {
  require(ranks >= 1, ErrorCode::kShapeInvalid, "ranks is " + std::to_string(ranks) + "; it must be 1 or more");
  return std::make_shared<LocalGroupOfThreads>(ranks);
}

std::vector<std::shared_ptr<Communicator>> createLocalGroup(int ranks) {
  const std::shared_ptr<LocalGroup> group = LocalGroup::create(ranks);
  std::vector<std::shared_ptr<Communicator>> communicators;
  communicators.reserve(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) communicators.push_back(group->communicator(rank));
  return communicators;
}

}  // namespace hels
