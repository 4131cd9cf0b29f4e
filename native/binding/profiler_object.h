// The JS class Profiler: measures one device's points one after another, over buffers that it keeps between them.
#pragma once

#include <napi.h>

#include <memory>

#include "engine/profile.h"

namespace hels::binding {

class ProfilerObject : public Napi::ObjectWrap<ProfilerObject> {
 public:
  static Napi::Function define(Napi::Env env);

  /// ({model, options})
  explicit ProfilerObject(const Napi::CallbackInfo& info);

 private:
  struct State;
  Napi::Value measure(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<State> state_;
};

}  // namespace hels::binding
