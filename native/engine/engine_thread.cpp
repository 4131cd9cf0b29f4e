#include "engine/engine_thread.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace hels {

void EngineSlot::set(std::unique_ptr<Engine> engine) {
  std::unique_ptr<Engine> old;
  {
    std::lock_guard lock(mutex_);
    old = std::move(engine_);
  }
  old.reset();
  std::lock_guard lock(mutex_);
  engine_ = std::move(engine);
}

std::unique_ptr<Engine> EngineSlot::take() {
  std::lock_guard lock(mutex_);
  return std::move(engine_);
}

void EngineSlot::setConnector(std::unique_ptr<GroupConnector> connector) {
  std::lock_guard lock(mutex_);
  connector_.swap(connector);
}

/// The connector first: what it has formed by then is the engine's.
void EngineSlot::abort() noexcept {
  std::lock_guard lock(mutex_);
  if (connector_) connector_->abort();
  if (engine_) engine_->abort();
}

EngineThread::EngineThread(size_t queueMax) : queueMax_(queueMax), thread_([this] { loop(); }) {}

EngineThread::~EngineThread() { close(); }

void EngineThread::post(Command command) {
  {
    std::lock_guard lock(mutex_);
    require(!closing_, ErrorCode::kAborted, "the engine thread is closed");
    require(queue_.size() < queueMax_, ErrorCode::kShapeInvalid,
            "the engine's queue is full: " + std::to_string(queueMax_) +
                " commands wait; submit after earlier ones have settled");
    queue_.push_back(std::move(command));
  }
  wake_.notify_one();
}

void EngineThread::abort() noexcept { slot_.abort(); }

void EngineThread::close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  std::lock_guard lock(closeMutex_);
  if (!thread_.joinable()) return;
  slot_.abort();
  thread_.join();
}

void EngineThread::loop() {
  for (;;) {
    Command command;
    bool closing = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      closing = closing_;
      if (queue_.empty()) break;
      command = std::move(queue_.front());
      queue_.pop_front();
    }
    std::exception_ptr failure;
    if (closing) {
      failure = std::make_exception_ptr(Error(ErrorCode::kAborted, "the engine thread closed before the command ran"));
    } else {
      try {
        command.run(slot_);
      } catch (...) {
        failure = std::current_exception();
      }
    }
    command.settle(failure);
  }
  slot_.setConnector(nullptr);
  slot_.set(nullptr);
}

}  // namespace hels
