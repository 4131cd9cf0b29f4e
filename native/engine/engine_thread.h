// Gives an engine its own thread: callers post commands into a bounded queue and are called back on that thread.
// Nothing here knows of JavaScript; `binding` turns a settled command into a resolved promise.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/engine.h"
#include "engine/group_connector.h"

namespace hels {

/// The engine of one thread, empty until a command puts one in, and the connector of its group. Only commands (on the
/// native thread) may use it.
class EngineSlot {
 public:
  /// null before set().
  Engine* get() const { return engine_.get(); }
  /// Replaces the engine; the old one ends first, so that its memory is free. null unloads. An abort() that came before
  /// ends here.
  void set(std::unique_ptr<Engine> engine);
  /// Takes the engine out; null when there is none.
  std::unique_ptr<Engine> take();
  /// null before setConnector().
  GroupConnector* connector() const { return connector_.get(); }
  /// Replaces the connector; null drops it.
  void setConnector(std::unique_ptr<GroupConnector> connector);

 private:
  friend class EngineThread;
  void abort() noexcept;

  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GroupConnector> connector_;
  std::mutex mutex_;  // guards both against abort() from another thread
};

class EngineThread {
 public:
  struct Command {
    /// Runs on the native thread: load, connect, step, report ... May throw.
    std::function<void(EngineSlot&)> run;
    /// Called exactly once, on the native thread: with null after `run` returned, with what it threw, or with
    /// Error(kAborted) when the thread closed before `run` began. Must not throw.
    std::function<void(std::exception_ptr)> settle;
  };

  explicit EngineThread(size_t queueMax = 16);
  /// close().
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  /// Commands run in the order posted. Throws kShapeInvalid when `queueMax` commands are waiting and kAborted after
  /// close(); after a throw `settle` is not called.
  void post(Command command);
  /// Ends the running collective, if any, and the forming of the group of an open connector, running or to come, at
  /// once (they throw kAborted); the queue goes on. From any thread.
  void abort() noexcept;
  /// Aborts, lets the running command end, settles those that wait with kAborted, ends the engine, joins. Idempotent.
  void close();

 private:
  void loop();

  const size_t queueMax_;
  EngineSlot slot_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Command> queue_;
  bool closing_ = false;
  std::mutex closeMutex_;  // one close() joins, others wait for it
  std::thread thread_;
};

}  // namespace hels
