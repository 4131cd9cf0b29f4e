#include "binding/collective_probe_object.h"

#include <chrono>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/convert.h"
#include "binding/native_error.h"
#include "comm/collective_probe.h"

namespace hels::binding {
namespace {

constexpr int64_t kRanksMax = 1024;
constexpr int64_t kTokensMax = 1 << 16;

ProbeLoad readLoad(const Argument& argument, std::chrono::milliseconds deadline) {
  ProbeLoad load;
  const Argument tokens = argument.field("tokens");
  for (uint32_t i = 0; i < tokens.length(); ++i) load.tokens.push_back(tokens.at(i).integer(1, kTokensMax));
  load.hiddenSize = argument.field("hiddenSize").integer(1, kTokensMax);
  load.sums = argument.field("sums").integer(1, kTokensMax);
  load.repetitions = static_cast<int>(argument.field("repetitions").integer(1, 10'000));
  load.budget = std::chrono::milliseconds(argument.field("budgetMs").integer(0, 3'600'000));
  load.deadline = deadline;
  return load;
}

}  // namespace

/// Shared with the background threads that open and measure.
struct CollectiveProbeObject::State {
  std::string address;                       // written before JS has the object
  std::mutex mutex;                          // guards what follows
  std::shared_ptr<GlooConnector> connector;  // until a measurement takes it
  std::weak_ptr<GlooConnector> connecting;
  std::weak_ptr<Communicator> communicator;
  bool aborted = false;

  void open(int rank, int ranks, const std::string& hostname) {
    auto opened = std::make_shared<GlooConnector>(rank, ranks, hostname);
    address = opened->address();
    const std::lock_guard lock(mutex);
    connector = std::move(opened);
  }

  std::vector<double> measure(const std::vector<std::string>& addresses, const ProbeLoad& load,
                              std::chrono::milliseconds deadline) {
    std::shared_ptr<GlooConnector> own;
    {
      const std::lock_guard lock(mutex);
      requireGoingOn();
      own = std::exchange(connector, nullptr);
      require(own != nullptr, ErrorCode::kShapeInvalid, "a probe measures once");
      connecting = own;
    }
    const auto formed = own->connect(addresses, deadline);
    {
      const std::lock_guard lock(mutex);
      requireGoingOn();
      communicator = formed;
    }
    return probeCollective(*formed, load);
  }

  void abort() {
    const std::lock_guard lock(mutex);
    aborted = true;
    if (const auto own = connecting.lock()) own->abort();
    if (const auto formed = communicator.lock()) formed->abort();
  }

 private:
  void requireGoingOn() const { require(!aborted, ErrorCode::kAborted, "the probe was aborted"); }
};

Napi::Function CollectiveProbeObject::define(Napi::Env env) {
  return DefineClass(env, "CollectiveProbe",
                     {
                         StaticMethod("open", &CollectiveProbeObject::open),
                         InstanceMethod("address", &CollectiveProbeObject::address),
                         InstanceMethod("measure", &CollectiveProbeObject::measure),
                         InstanceMethod("abort", &CollectiveProbeObject::abort),
                     });
}

CollectiveProbeObject::CollectiveProbeObject(const Napi::CallbackInfo& info)
    : ObjectWrap(info), state_(std::make_shared<State>()) {}

/// ({rank, ranks, hostname}) -> Promise of a probe that listens: a name is resolved off the JS thread.
Napi::Value CollectiveProbeObject::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Argument request(info[0], "probe");
    const auto ranks = static_cast<int>(request.field("ranks").integer(2, kRanksMax));
    const auto rank = static_cast<int>(request.field("rank").integer(0, ranks - 1));
    const std::string hostname = request.field("hostname").string();
    const Napi::Object object = AddonState::of(env).probeConstructor.New({});
    const auto work = [state = Unwrap(object)->state_, rank, ranks, hostname]() -> MakeValue {
      state->open(rank, ranks, hostname);
      return [](Napi::Env, Napi::Object owner) -> Napi::Value { return owner; };
    };
    return AddonState::of(env).runInBackground(env, object, work);
  });
}

/// () -> where the other ranks reach this one
Napi::Value CollectiveProbeObject::address(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return Napi::String::New(info.Env(), state_->address); });
}

/// (addresses of all ranks, load, deadlineMs) -> Promise of the seconds for each of load.tokens
Napi::Value CollectiveProbeObject::measure(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::vector<std::string> addresses = readStrings(Argument(info[0], "addresses"));
    const auto deadline = std::chrono::milliseconds(Argument(info[2], "deadlineMs").integer(1, 3'600'000));
    const ProbeLoad load = readLoad(Argument(info[1], "load"), deadline);
    const auto work = [state = state_, addresses, load, deadline]() -> MakeValue {
      const std::vector<double> seconds = state->measure(addresses, load, deadline);
      return [seconds](Napi::Env jsEnv, Napi::Object) -> Napi::Value {
        const Napi::Array array = Napi::Array::New(jsEnv, seconds.size());
        for (size_t i = 0; i < seconds.size(); ++i) array.Set(static_cast<uint32_t>(i), seconds[i]);
        return array;
      };
    };
    return AddonState::of(env).runInBackground(env, Value(), work, [state = state_] { state->abort(); });
  });
}

Napi::Value CollectiveProbeObject::abort(const Napi::CallbackInfo& info) {
  state_->abort();
  return info.Env().Null();
}

}  // namespace hels::binding
