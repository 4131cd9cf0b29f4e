// What one JS environment owns of the addon: its promises, its engine threads, its background threads. All of them end
// with it.
#pragma once

#include <napi.h>

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <thread>
#include <vector>

#include "binding/promise_settler.h"
#include "engine/engine_thread.h"

namespace hels::binding {

class AddonState : public std::enable_shared_from_this<AddonState> {
 public:
  /// Puts the state into the environment, and a hook that stops it.
  static void install(Napi::Env env);
  static AddonState& of(Napi::Env env);

  explicit AddonState(Napi::Env env) : settler_(env) {}

  PromiseSettler& settler() { return settler_; }
  Napi::FunctionReference engineConstructor;
  Napi::FunctionReference localGroupConstructor;
  Napi::FunctionReference probeConstructor;

  /// A thread for one engine, closed at the latest when the environment ends.
  std::shared_ptr<EngineThread> newEngineThread();

  /// Runs `work` on a thread of its own and resolves to the value it returns the maker of; `owner` as in
  /// PromiseSettler::open. `abort`, where there is one, makes `work` end soon. Throws when no thread can be made.
  Napi::Promise runInBackground(Napi::Env env, Napi::Object owner, std::function<MakeValue()> work,
                                std::function<void()> abort = nullptr);
  /// Ends an engine thread off the JS thread, with nobody waiting for it.
  void closeInBackground(std::shared_ptr<EngineThread> thread) noexcept;

  /// Aborts what can be, and joins every native thread: a point of a profile and a tensor that is quantised come to
  /// their end. JS thread; idempotent.
  void stop();

 private:
  struct Background {
    std::thread thread;
    std::shared_ptr<std::atomic<bool>> done;
    std::function<void()> abort;
  };
  void start(std::function<void()> work, std::function<void()> abort = nullptr);

  PromiseSettler settler_;
  std::vector<std::weak_ptr<EngineThread>> engineThreads_;
  std::list<Background> background_;
  bool stopped_ = false;
};

}  // namespace hels::binding
