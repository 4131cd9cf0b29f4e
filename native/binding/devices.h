// The GPUs of this machine, as the addon tells them. A build without CUDA has none, and says so.
#pragma once

#include <napi.h>

namespace hels::binding {

/// () -> {devices, reason, driver, runtime, architectures}: what listDevices() of base/cuda/device_list.h says, null
/// for what there is not.
Napi::Value cudaDevices(const Napi::CallbackInfo& info);

/// () -> [{name, path, problem}] of the libraries that GPUs need, opened now: where they are, or why not; null
/// otherwise.
Napi::Value cudaLibraries(const Napi::CallbackInfo& info);

/// (device) -> {freeBytes, totalBytes}, now. Throws kDeviceMissing, kDeviceLost.
Napi::Value cudaMemory(const Napi::CallbackInfo& info);

/// Before any other use of the addon: see prepareProcess() of base/cuda/device_list.h.
void prepareForDevices();

}  // namespace hels::binding
