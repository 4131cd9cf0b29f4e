// The addon's surface, mirrored by worker/binding/native.ts: a thin bridge that converts, posts and settles, and
// decides nothing.
#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/collective_probe_object.h"
#include "binding/convert.h"
#include "binding/devices.h"
#include "binding/engine_object.h"
#include "binding/local_group_object.h"
#include "binding/native_error.h"
#include "binding/profiler_object.h"
#include "binding/quantizer_object.h"
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

/// (device) -> Promise of the bytes a second between a device's memory and its host's.
Napi::Value copyBandwidthAsync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string device = Argument(info[0], "device").string();
    const auto work = [device]() -> MakeValue {
      const double bytesPerSecond = copyBandwidth(device);
      return [bytesPerSecond](Napi::Env env, Napi::Object) -> Napi::Value {
        return Napi::Number::New(env, bytesPerSecond);
      };
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
  prepareForDevices();
  AddonState::install(env);
  AddonState& state = AddonState::of(env);
  state.engineConstructor = Napi::Persistent(EngineObject::define(env));
  state.localGroupConstructor = Napi::Persistent(LocalGroupObject::define(env));
  state.probeConstructor = Napi::Persistent(CollectiveProbeObject::define(env));
  exports.Set("CollectiveProbe", state.probeConstructor.Value());
  exports.Set("Profiler", ProfilerObject::define(env));
  exports.Set("Quantizer", QuantizerObject::define(env));
  exports.Set("copyBandwidth", Napi::Function::New(env, copyBandwidthAsync, "copyBandwidth"));
  exports.Set("cudaDevices", Napi::Function::New(env, cudaDevices, "cudaDevices"));
  exports.Set("cudaLibraries", Napi::Function::New(env, cudaLibraries, "cudaLibraries"));
  exports.Set("cudaMemory", Napi::Function::New(env, cudaMemory, "cudaMemory"));
  exports.Set("NativeEngine", state.engineConstructor.Value());
  exports.Set("createLocalGroup", Napi::Function::New(env, createLocalGroup, "createLocalGroup"));
  exports.Set("inspectModel", Napi::Function::New(env, inspectModel, "inspectModel"));
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
