// The JS class NativeEngine: one engine on one native thread. Every method posts one command and returns a promise.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <optional>

#include "binding/addon_state.h"
#include "binding/argument.h"
#include "engine/engine_thread.h"
#include "shard/shard_spec.h"

namespace hels::binding {

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit EngineObject(const Napi::CallbackInfo& info);
  /// Runs when JS lets go of an engine that it did not close.
  ~EngineObject() override;

 private:
  static Napi::Value load(const Napi::CallbackInfo& info);
  Napi::Value reload(const Napi::CallbackInfo& info);
  Napi::Value openCollective(const Napi::CallbackInfo& info);
  Napi::Value connect(const Napi::CallbackInfo& info);
  Napi::Value connectLocal(const Napi::CallbackInfo& info);
  Napi::Value migrateKv(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value report(const Napi::CallbackInfo& info);
  Napi::Value abort(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  /// Runs `run` on the engine's thread; the promise becomes what `convert` makes of its result on the JS thread.
  template <typename Result>
  Napi::Value submit(Napi::Env env, std::function<Result(EngineSlot&)> run,
                     std::function<Napi::Value(Napi::Env, Napi::Object, const Result&)> convert);
  /// Posts the load of a request's engine in place of the one there is, if any; resolves to this object.
  Napi::Value submitLoad(Napi::Env env, const Argument& request);
  void requireOpen() const;

  std::shared_ptr<AddonState> state_;
  std::shared_ptr<EngineThread> thread_;
  ShardSpec shard_;        // JS thread only, as device_
  std::string transport_;  // engine thread only; empty without a group
  std::string device_;
  bool closed_ = false;
};

}  // namespace hels::binding
