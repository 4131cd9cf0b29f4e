#include "engine/collective.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/processor_time.h"

namespace hels {
namespace {

constexpr std::chrono::seconds kDefaultDeadline{30};

}  // namespace

std::chrono::nanoseconds deadlineOrDefault(std::chrono::nanoseconds deadline) {
  return deadline.count() > 0 ? deadline : kDefaultDeadline;
}

void Collective::connect(std::shared_ptr<Communicator> communicator) {
  require(communicator != nullptr && communicator->rank() == rank_ && communicator->ranks() == ranks_,
          ErrorCode::kShapeInvalid,
          "the communicator is not that of rank " + std::to_string(rank_) + " of " + std::to_string(ranks_));
  std::lock_guard lock(mutex_);
  communicator_ = std::move(communicator);
}

void Collective::requireConnected() const {
  require(ranks_ == 1 || communicator_ != nullptr, ErrorCode::kShapeInvalid,
          "a shard of " + std::to_string(ranks_) + " ranks needs connect() before step()");
}

void Collective::sum(std::span<int64_t> values) {
  if (ranks_ == 1) return;
  clock_.endCompute();
  communicator_->allReduceSum(values, deadline_);
  clock_.beginCompute(communicator_->lastReadyAt());
  ++count_;
  bytes_ += values.size_bytes();
}

void Collective::exchange(std::span<const ExchangePart> parts) {
  clock_.endCompute();
  exchangeUntimed(parts);
  clock_.beginCompute();
}

void Collective::exchangeUntimed(std::span<const ExchangePart> parts) {
  const auto start = std::chrono::steady_clock::now();
  const auto processorStart = processorTime();
  communicator_->exchange(parts, deadline_);
  const std::chrono::duration<double> processor = processorTime() - processorStart;
  const auto end = std::chrono::steady_clock::now();
  const std::chrono::duration<double> all = end - start;
  exchangeSeconds_ += all.count();
  exchangeProcessorSeconds_ += processor.count();
  const auto ready = communicator_->lastReadyAt();
  const std::chrono::duration<double> sinceReady = end - std::max(start, ready.value_or(start));
  exchangeWorkSeconds_ += ready ? std::min(sinceReady, processor).count() : all.count();
  ++exchangeCount_;
  for (const ExchangePart& part : parts) exchangeBytes_ += part.send.size() + part.receive.size();
}

void Collective::abort() noexcept {
  std::lock_guard lock(mutex_);
  if (communicator_) communicator_->abort();
}

}  // namespace hels
