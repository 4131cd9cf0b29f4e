// The addon's surface, mirrored by worker/binding/native.ts: a thin bridge that converts, posts and settles, and decides nothing.
#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/convert.h"
#include "binding/engine_object.h"
#include "binding/local_group_object.h"
#include "binding/native_error.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"

namespace hels::binding {
namespace {

/// (directory) -> Promise of every tensor's name, file, type, shape and size, in name order.
Napi::Value inspectModel(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string directory = Argument(info[0], "directory").string();
    const auto work = [directory]() -> MakeValue {
      auto tensors = std::make_shared<std::vector<TensorView>>();
      // The views' data pointers are not used: the mapping ends here.
      const std::shared_ptr<WeightSource> source = WeightSource::open(directory);
      for (const auto& [name, tensor] : source->tensors()) tensors->push_back(tensor);
      return [tensors](Napi::Env env, Napi::Object) { return toJs(env, *tensors); };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Napi::Object::New(info.Env()), work);
  });
}

/// ({model, options, point, repetitions}) -> Promise of the seconds of one step at that point.
Napi::Value profileStepAsync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Argument request(info[0], "profile");
    const ModelSpec model = readModelSpec(request.field("model"));
    const EngineOptions options = readEngineOptions(request.field("options"));
    const ProfilePoint point = readProfilePoint(request.field("point"));
    const int repetitions = static_cast<int>(request.field("repetitions").integer(1, 1000));
    const auto work = [model, options, point, repetitions]() -> MakeValue {
      const double seconds = profileStep(model, options, point, repetitions);
      return [seconds](Napi::Env env, Napi::Object) -> Napi::Value { return Napi::Number::New(env, seconds); };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Napi::Object::New(info.Env()), work);
  });
}

/// (ranks) -> LocalGroup
Napi::Value createLocalGroup(const Napi::CallbackInfo& info) {
  return AddonState::of(info.Env()).localGroupConstructor.New({info[0]});
}

/// () -> {oneDnn, gemmImplementation, instructionSet}; the implementation is that of exact numerics.
Napi::Value version(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [env]() -> Napi::Value {
    Napi::Object result = Napi::Object::New(env);
    result.Set("oneDnn", oneDnnVersion());
    result.Set("gemmImplementation", makeChainGemm(1)->implementation());
    result.Set("instructionSet", isaName(bestIsa()));
    return result;
  });
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  AddonState::install(env);
  AddonState& state = AddonState::of(env);
  state.engineConstructor = Napi::Persistent(EngineObject::define(env));
  state.localGroupConstructor = Napi::Persistent(LocalGroupObject::define(env));
  exports.Set("NativeEngine", state.engineConstructor.Value());
  exports.Set("createLocalGroup", Napi::Function::New(env, createLocalGroup, "createLocalGroup"));
  exports.Set("inspectModel", Napi::Function::New(env, inspectModel, "inspectModel"));
  exports.Set("profileStep", Napi::Function::New(env, profileStepAsync, "profileStep"));
  exports.Set("version", Napi::Function::New(env, version, "version"));
  return exports;
}

}  // namespace
}  // namespace hels::binding

// The macro wants a function of the global namespace.
static Napi::Object initializeModule(Napi::Env env, Napi::Object exports) {
  return hels::binding::initialize(env, exports);
}
NODE_API_MODULE(hels, initializeModule)
