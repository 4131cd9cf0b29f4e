#include "comm/cuda/local_device_communicator.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/error.h"
#include "comm/cuda/local_sum.h"
#include "comm/cuda/stream_wait.h"

namespace hels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

/// Kernels that have been told to end do so within microseconds; a rank's other work in the stream comes before that.
constexpr std::chrono::seconds kEnding{5};

struct Failure {
  ErrorCode code;
  int rank;
  std::string message;
};

std::string millisecondsText(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

/// What the ranks share.
class GroupState {
 public:
  explicit GroupState(int ranks)
      : ranks_(ranks),
        flagMemory_(sizeof(LocalFlags), "sums between ranks of one device"),
        controlMemory_(sizeof(LocalControl), "sums between ranks of one device") {
    *control() = {};
    clearFlags();
    // Loads the kernel's code while nothing waits yet.
    launchLocalSum({.flags = flags(), .control = control(), .rank = 0, .ranks = 1, .values = nullptr, .count = 0},
                   nullptr);
    check(cudaStreamSynchronize(nullptr), "first sum between ranks of one device");
    clearFlags();
  }

  int ranks() const { return ranks_; }
  LocalFlags* flags() const { return flagMemory_.as<LocalFlags>(); }
  LocalControl* control() const { return controlMemory_.as<LocalControl>(); }

  /// How long kernels wait for a peer, those in graphs included.
  void limit(std::chrono::nanoseconds time) {
    std::atomic_ref(control()->limitNanoseconds).store(static_cast<uint64_t>(time.count()));
  }

  /// The group cannot continue without `rank`. The first reason stays.
  void fail(Failure failure) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(failure);
    }
    std::atomic_ref(control()->end).store(1);
  }

  bool failed() const { return std::atomic_ref(control()->end).load() != 0; }

  /// Throws the reason that the group has failed for, as it looks to `rank`.
  void throwFailure(int rank) {
    if (!failed()) return;
    takeOutcomes();
    const std::lock_guard lock(mutex_);
    if (!failure_) return;
    if (failure_->rank == rank || failure_->code == ErrorCode::kShapeInvalid)
      throw Error(failure_->code, failure_->message);
    throw Error(ErrorCode::kPeerLost,
                "rank " + std::to_string(failure_->rank) + " left the group: " + failure_->message);
  }

 private:
  void clearFlags() {
    check(cudaMemset(flagMemory_.data(), 0, sizeof(LocalFlags)), "sums between ranks of one device");
    check(cudaStreamSynchronize(nullptr), "sums between ranks of one device");
  }

  /// What kernels found out.
  void takeOutcomes() {
    for (int rank = 0; rank < ranks_; ++rank) {
      const auto outcome =
          static_cast<LocalOutcome>(std::atomic_ref(control()->outcome[static_cast<size_t>(rank)]).load());
      if (outcome == LocalOutcome::kLate) {
        fail({ErrorCode::kDeadlineExceeded, rank,
              "the collective did not end in time: a rank's kernel did not come within " +
                  millisecondsText(std::chrono::nanoseconds(std::atomic_ref(control()->limitNanoseconds).load()))});
      } else if (outcome == LocalOutcome::kUnequalCounts) {
        fail({ErrorCode::kShapeInvalid, rank,
              "rank " + std::to_string(rank) +
                  " and another sum unequally many values; all ranks must make the same "
                  "calls"});
      }
    }
  }

  const int ranks_;
  const DeviceBuffer flagMemory_;
  const PinnedBuffer controlMemory_;
  std::mutex mutex_;
  std::optional<Failure> failure_;
};

class LocalDeviceCommunicator final : public DeviceCommunicator {
 public:
  LocalDeviceCommunicator(int rank, std::shared_ptr<GroupState> group) : rank_(rank), group_(std::move(group)) {}
  ~LocalDeviceCommunicator() override { group_->fail({ErrorCode::kPeerLost, rank_, "its communicator was destroyed"}); }
  LocalDeviceCommunicator(const LocalDeviceCommunicator&) = delete;
  LocalDeviceCommunicator& operator=(const LocalDeviceCommunicator&) = delete;

  int rank() const override { return rank_; }
  int ranks() const override { return group_->ranks(); }
  std::string transport() const override { return "one device"; }

  void allReduceSum(int64_t* values, size_t count, cudaStream_t stream, std::chrono::nanoseconds deadline) override {
    group_->throwFailure(rank_);
    if (group_->ranks() == 1) return;
    group_->limit(deadline);
    launchLocalSum({.flags = group_->flags(),
                    .control = group_->control(),
                    .rank = rank_,
                    .ranks = group_->ranks(),
                    .values = values,
                    .count = count},
                   stream);
  }

  void synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) override {
    group_->limit(deadline);
    if (!waitForStream(stream, Clock::now() + deadline)) {
      group_->fail({ErrorCode::kDeadlineExceeded, rank_,
                    "rank " + std::to_string(rank_) + ": the step did not end within " + millisecondsText(deadline)});
      // Whoever catches this may free what the kernels use.
      (void)waitForStream(stream, Clock::now() + kEnding);
    }
    group_->throwFailure(rank_);
  }

  void abort() noexcept override { group_->fail({ErrorCode::kAborted, rank_, "the collective was aborted"}); }

 private:
  const int rank_;
  const std::shared_ptr<GroupState> group_;
};

class LocalDeviceGroupOfStreams final : public LocalDeviceGroup {
 public:
  explicit LocalDeviceGroupOfStreams(int ranks) {
    const auto state = std::make_shared<GroupState>(ranks);
    for (int rank = 0; rank < ranks; ++rank)
      communicators_.push_back(std::make_shared<LocalDeviceCommunicator>(rank, state));
  }

  int ranks() const override { return static_cast<int>(communicators_.size()); }

  std::shared_ptr<DeviceCommunicator> communicator(int rank) const override {
    require(0 <= rank && rank < ranks(), ErrorCode::kShapeInvalid,
            "rank is " + std::to_string(rank) + "; the group has ranks 0 to " + std::to_string(ranks() - 1));
    return communicators_[static_cast<size_t>(rank)];
  }

 private:
  std::vector<std::shared_ptr<DeviceCommunicator>> communicators_;
};

}  // namespace

std::shared_ptr<LocalDeviceGroup> LocalDeviceGroup::create(int ranks) {
  require(1 <= ranks && ranks <= kLocalRanksMax, ErrorCode::kShapeInvalid,
          "ranks is " + std::to_string(ranks) + "; one device is shared by 1 to " + std::to_string(kLocalRanksMax));
  return std::make_shared<LocalDeviceGroupOfStreams>(ranks);
}

}  // namespace hels::cuda
