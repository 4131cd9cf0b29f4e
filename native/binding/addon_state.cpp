#include "binding/addon_state.h"

#include <utility>

#include "base/error.h"

namespace hels::binding {
namespace {

/// Commands that may wait on one engine: the steps of a stream (worker/daemon limits them to 64), and reports beside
/// them.
constexpr size_t kEngineQueueMax = 96;

using Holder = std::shared_ptr<AddonState>;

}  // namespace

void AddonState::install(Napi::Env env) {
  auto state = std::make_shared<AddonState>(env);
  env.SetInstanceData(new Holder(state));
  // The hook runs before the environment's own teardown, while the thread-safe function still exists.
  env.AddCleanupHook([state] { state->stop(); });
}

AddonState& AddonState::of(Napi::Env env) { return **env.GetInstanceData<Holder>(); }

std::shared_ptr<EngineThread> AddonState::newEngineThread() {
  require(!stopped_, ErrorCode::kAborted, "the process is ending");
  std::erase_if(engineThreads_, [](const std::weak_ptr<EngineThread>& thread) { return thread.expired(); });
  auto thread = std::make_shared<EngineThread>(kEngineQueueMax);
  engineThreads_.push_back(thread);
  return thread;
}

Napi::Promise AddonState::runInBackground(Napi::Env env, Napi::Object owner, std::function<MakeValue()> work,
                                          std::function<void()> abort) {
  require(!stopped_, ErrorCode::kAborted, "the process is ending");
  PromiseSettler::Ticket* ticket = settler_.open(env, owner);
  const Napi::Promise promise = PromiseSettler::promiseOf(*ticket);
  try {
    start(
        [this, ticket, work = std::move(work)] {
          std::exception_ptr failure;
          MakeValue makeValue;
          try {
            makeValue = work();
          } catch (...) {
            failure = std::current_exception();
          }
          settler_.settle(ticket, failure, std::move(makeValue));
        },
        std::move(abort));
  } catch (...) {
    settler_.discard(env, ticket);
    throw;
  }
  return promise;
}

void AddonState::closeInBackground(std::shared_ptr<EngineThread> thread) noexcept {
  if (stopped_) return;  // stop() closed it
  try {
    start([thread] { thread->close(); });
  } catch (const std::exception&) {
    thread->close();  // no thread can be made: here
  }
}

void AddonState::start(std::function<void()> work, std::function<void()> abort) {
  std::erase_if(background_, [](Background& background) {
    if (!background.done->load()) return false;
    background.thread.join();
    return true;
  });
  auto done = std::make_shared<std::atomic<bool>>(false);
  background_.push_back({std::thread([done, work = std::move(work)] {
                           work();
                           done->store(true);
                         }),
                         done, std::move(abort)});
}

void AddonState::stop() {
  if (std::exchange(stopped_, true)) return;
  for (const std::weak_ptr<EngineThread>& weak : engineThreads_) {
    if (const auto thread = weak.lock()) thread->abort();
  }
  for (const Background& background : background_) {
    if (background.abort != nullptr) background.abort();
  }
  for (const std::weak_ptr<EngineThread>& weak : engineThreads_) {
    if (const auto thread = weak.lock()) thread->close();
  }
  for (Background& background : background_) background.thread.join();
  settler_.release();
}

}  // namespace hels::binding
