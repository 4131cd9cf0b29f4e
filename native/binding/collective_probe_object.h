// The JS class CollectiveProbe: one rank's end of a collective that is formed to be measured and then dropped.
#pragma once

#include <napi.h>

#include <memory>

#include "comm/gloo_connector.h"

namespace hels::binding {

class CollectiveProbeObject : public Napi::ObjectWrap<CollectiveProbeObject> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit CollectiveProbeObject(const Napi::CallbackInfo& info);

 private:
  struct State;
  static Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value address(const Napi::CallbackInfo& info);
  Napi::Value measure(const Napi::CallbackInfo& info);
  Napi::Value abort(const Napi::CallbackInfo& info);

  std::shared_ptr<State> state_;
};

}  // namespace hels::binding
