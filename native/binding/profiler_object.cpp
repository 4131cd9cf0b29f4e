#include "binding/profiler_object.h"

#include <mutex>

#include "base/error.h"
#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/convert.h"
#include "binding/native_error.h"

namespace hels::binding {

/// Shared with the background thread that measures; one point at a time.
struct ProfilerObject::State {
  std::mutex mutex;
  std::unique_ptr<Profiler> profiler;

  State(const ModelSpec& model, const EngineOptions& options) : profiler(std::make_unique<Profiler>(model, options)) {}

  double measure(const ProfilePoint& point, int repetitions, double secondsMax) {
    std::lock_guard lock(mutex);
    require(profiler != nullptr, ErrorCode::kAborted, "the profiler is closed");
    return profiler->measure(point, repetitions, secondsMax);
  }

  void close() {
    std::lock_guard lock(mutex);
    profiler.reset();
  }
};

Napi::Function ProfilerObject::define(Napi::Env env) {
  return DefineClass(env, "Profiler",
                     {
                         InstanceMethod("measure", &ProfilerObject::measure),
                         InstanceMethod("close", &ProfilerObject::close),
                     });
}

ProfilerObject::ProfilerObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&]() -> Napi::Value {
    const Argument request(info[0], "profiler");
    state_ =
        std::make_shared<State>(readModelSpec(request.field("model")), readEngineOptions(request.field("options")));
    return info.Env().Null();
  });
}

/// (point, repetitions, secondsMax) -> Promise of the seconds of one step at that point.
Napi::Value ProfilerObject::measure(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const ProfilePoint point = readProfilePoint(Argument(info[0], "point"));
    const int repetitions = static_cast<int>(Argument(info[1], "repetitions").integer(1, 1000));
    const double secondsMax = Argument(info[2], "secondsMax").number(0, 3600);
    const auto work = [state = state_, point, repetitions, secondsMax]() -> MakeValue {
      const double seconds = state->measure(point, repetitions, secondsMax);
      return [seconds](Napi::Env env, Napi::Object) -> Napi::Value { return Napi::Number::New(env, seconds); };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Value(), work);
  });
}

/// Frees the buffers, off the JS thread, when the point that is being measured is done.
Napi::Value ProfilerObject::close(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto work = [state = state_]() -> MakeValue {
      state->close();
      return [](Napi::Env env, Napi::Object) -> Napi::Value { return env.Null(); };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Value(), work);
  });
}

}  // namespace hels::binding
