#include "binding/devices.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "binding/argument.h"
#include "binding/native_error.h"
#ifdef HELS_HAS_CUDA
#include "base/cuda/device_list.h"
#include "base/cuda/dynamic_library.h"
#include "comm/cuda/nccl_communicator.h"
#include "kernels/cuda/cublas_lt.h"
#endif

namespace hels::binding {
namespace {

Napi::Value textOrNull(Napi::Env env, const std::string& text) {
  return text.empty() ? env.Null() : Napi::String::New(env, text).As<Napi::Value>();
}

}  // namespace

#ifdef HELS_HAS_CUDA

Napi::Value cudaDevices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [env]() -> Napi::Value {
    const cuda::DeviceList list = cuda::listDevices();
    const Napi::Array devices = Napi::Array::New(env, list.devices.size());
    for (const cuda::DeviceFacts& facts : list.devices) {
      const Napi::Object device = Napi::Object::New(env);
      device.Set("index", facts.index);
      device.Set("name", facts.name);
      device.Set("computeCapability", std::to_string(facts.major) + "." + std::to_string(facts.minor));
      device.Set("multiprocessors", facts.multiprocessors);
      device.Set("memoryBytes", static_cast<double>(facts.memoryBytes));
      devices.Set(static_cast<uint32_t>(facts.index), device);
    }
    const Napi::Object result = Napi::Object::New(env);
    result.Set("devices", devices);
    result.Set("reason", textOrNull(env, list.reason));
    result.Set("driver", textOrNull(env, list.driver));
    result.Set("runtime", textOrNull(env, list.runtime));
    result.Set("architectures", textOrNull(env, list.architectures));
    return result;
  });
}

Napi::Value cudaLibraries(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [env]() -> Napi::Value {
    const Napi::Array libraries = Napi::Array::New(env);
    const auto add = [&](const char* name, const std::vector<std::string>& sonames) {
      const Napi::Object library = Napi::Object::New(env);
      library.Set("name", name);
      library.Set("path", env.Null());
      library.Set("problem", env.Null());
      try {
        library.Set("path", cuda::DynamicLibrary::open(name, sonames).path());
      } catch (const Error& error) {
        library.Set("problem", error.what());
      }
      libraries.Set(libraries.Length(), library);
    };
    add("cuBLASLt", cuda::CublasLt::sonames());
    add("NCCL", cuda::NcclConnector::sonames());
    return libraries;
  });
}

Napi::Value cudaMemory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto device = static_cast<int>(Argument(info[0], "device").integer(0, 1023));
    const cuda::DeviceMemory memory = cuda::measureMemory(device);
    const Napi::Object result = Napi::Object::New(env);
    result.Set("freeBytes", static_cast<double>(memory.freeBytes));
    result.Set("totalBytes", static_cast<double>(memory.totalBytes));
    return result;
  });
}

void prepareForDevices() { cuda::prepareProcess(false); }

#else

namespace {
constexpr const char* kNoBackend = "this build has no CUDA backend: nvcc was not found when it was built";
}  // namespace

Napi::Value cudaDevices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object result = Napi::Object::New(env);
  result.Set("devices", Napi::Array::New(env, 0));
  result.Set("reason", textOrNull(env, kNoBackend));
  for (const char* name : {"driver", "runtime", "architectures"}) result.Set(name, env.Null());
  return result;
}

Napi::Value cudaMemory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), []() -> Napi::Value { throw Error(ErrorCode::kDeviceMissing, kNoBackend); });
}

Napi::Value cudaLibraries(const Napi::CallbackInfo& info) { return Napi::Array::New(info.Env(), 0); }

void prepareForDevices() {}

#endif

}  // namespace hels::binding
