#include "comm/local_communicator.h"

#include <algorithm>
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
  explicit GroupState(int ranks) : ranks_(ranks), inputs_(static_cast<size_t>(ranks)) {}

  int ranks() const { return ranks_; }

  void allReduceSum(int rank, std::span<int64_t> values, Clock::time_point deadlineAt) {
    inputs_[static_cast<size_t>(rank)].assign(values.begin(), values.end());
    meet(rank, deadlineAt, [this] { checkLengths(); });
    sumSlice(rank, values.size());
    meet(rank, deadlineAt, [] {});
    // The next sum writes sums_ only after every rank has come back for it.
    std::copy(sums_.begin(), sums_.end(), values.begin());
  }

  /// The group cannot continue without `rank`. The first reason stays.
  void fail(Failure failure) {
    const std::lock_guard lock(mutex_);
    setFailure(std::move(failure));
  }

 private:
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

  void abort() noexcept override { group_->fail({ErrorCode::kAborted, rank_, "the collective was aborted"}); }

 private:
  const int rank_;
  const std::shared_ptr<GroupState> group_;
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
