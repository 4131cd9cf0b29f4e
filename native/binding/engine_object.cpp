#include "binding/engine_object.h"

#include <chrono>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "binding/argument.h"
#include "binding/convert.h"
#include "binding/local_group_object.h"
#include "binding/native_error.h"
#include "model/weight_source.h"

namespace hels::binding {
namespace {

using Nothing = std::monostate;

Napi::Value toNull(Napi::Env env, Napi::Object /*owner*/, const Nothing& /*nothing*/) { return env.Null(); }

Engine& loaded(const EngineSlot& slot) {
  require(slot.get() != nullptr, ErrorCode::kAborted, "the engine did not load");
  return *slot.get();
}

}  // namespace

Napi::Function EngineObject::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {
                         StaticMethod("load", &EngineObject::load),
                         InstanceMethod("reload", &EngineObject::reload),
                         InstanceMethod("openCollective", &EngineObject::openCollective),
                         InstanceMethod("connect", &EngineObject::connect),
                         InstanceMethod("connectLocal", &EngineObject::connectLocal),
                         InstanceMethod("migrateKv", &EngineObject::migrateKv),
                         InstanceMethod("step", &EngineObject::step),
                         InstanceMethod("report", &EngineObject::report),
                         InstanceMethod("abort", &EngineObject::abort),
                         InstanceMethod("close", &EngineObject::close),
                     });
}

EngineObject::EngineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&]() -> Napi::Value {
    require(info.Length() == 0, ErrorCode::kShapeInvalid,
            "NativeEngine has no public constructor; use NativeEngine.load");
    state_ = AddonState::of(info.Env()).shared_from_this();
    thread_ = state_->newEngineThread();
    return info.Env().Null();
  });
}

EngineObject::~EngineObject() {
  if (thread_ != nullptr && !closed_) state_->closeInBackground(std::move(thread_));
}

void EngineObject::requireOpen() const { require(!closed_, ErrorCode::kAborted, "the engine is closed"); }

template <typename Result>
Napi::Value EngineObject::submit(Napi::Env env, std::function<Result(EngineSlot&)> run,
                                 std::function<Napi::Value(Napi::Env, Napi::Object, const Result&)> convert) {
  requireOpen();
  PromiseSettler& settler = state_->settler();
  PromiseSettler::Ticket* ticket = settler.open(env, Value());
  const Napi::Promise promise = PromiseSettler::promiseOf(*ticket);
  const auto result = std::make_shared<std::optional<Result>>();
  try {
    thread_->post({.run = [result, run = std::move(run)](EngineSlot& slot) { result->emplace(run(slot)); },
                   .settle =
                       [&settler, ticket, result, convert = std::move(convert)](std::exception_ptr failure) {
                         settler.settle(ticket, std::move(failure),
                                        [result, convert](Napi::Env jsEnv, Napi::Object owner) {
                                          return convert(jsEnv, owner, **result);
                                        });
                       }});
  } catch (...) {
    settler.discard(env, ticket);
    throw;
  }
  return promise;
}

Napi::Value EngineObject::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object object = AddonState::of(env).engineConstructor.New({});
    return Unwrap(object)->submitLoad(env, Argument(info[0], "load"));
  });
}

Napi::Value EngineObject::reload(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return submitLoad(info.Env(), Argument(info[0], "reload")); });
}

Napi::Value EngineObject::submitLoad(Napi::Env env, const Argument& request) {
  const std::string directory = request.field("directory").string();
  const ModelSpec model = readModelSpec(request.field("model"));
  const ShardSpec shard = readShardSpec(request.field("shard"));
  const EngineOptions options = readEngineOptions(request.field("options"));
  requireOpen();
  const Napi::Value loaded = submit<Nothing>(
      env,
      [this, directory, model, shard, options](EngineSlot& slot) {
        slot.setConnector(nullptr);
        transport_.clear();
        std::unique_ptr<Engine> previous = slot.take();
        slot.set(Engine::load(model, shard, WeightSource::open(directory), options, std::move(previous)));
        return Nothing{};
      },
      [](Napi::Env, Napi::Object owner, const Nothing&) -> Napi::Value { return owner; });
  // Only once it is queued: a full queue leaves the engine as it is.
  shard_ = shard;
  device_ = options.device;
  return loaded;
}

Napi::Value EngineObject::openCollective(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string hostname = Argument(info[0], "hostname").string();
    return submit<std::string>(
        info.Env(),
        [hostname, shard = shard_, device = device_](EngineSlot& slot) {
          slot.setConnector(std::make_unique<GroupConnector>(shard.rank, shard.ranks, hostname, device));
          return slot.connector()->address();
        },
        [](Napi::Env env, Napi::Object, const std::string& address) -> Napi::Value {
          return Napi::String::New(env, address);
        });
  });
}

Napi::Value EngineObject::connect(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::vector<std::string> addresses = readStrings(Argument(info[0], "addresses"));
    const auto deadline = std::chrono::milliseconds(Argument(info[1], "deadlineMs").integer(1, 3'600'000));
    return submit<Nothing>(
        info.Env(),
        [this, addresses, deadline](EngineSlot& slot) {
          GroupConnector* connector = slot.connector();
          require(connector != nullptr, ErrorCode::kShapeInvalid, "connect was called before openCollective");
          transport_ = connector->connect(loaded(slot), addresses, deadline);
          return Nothing{};
        },
        toNull);
  });
}

Napi::Value EngineObject::connectLocal(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto communicator = LocalGroupObject::communicator(info[0], shard_);
    return submit<Nothing>(
        info.Env(),
        [this, communicator](EngineSlot& slot) {
          loaded(slot).connect(communicator);
          transport_ = communicator->transport();
          return Nothing{};
        },
        toNull);
  });
}

Napi::Value EngineObject::migrateKv(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Argument argument(info[0], "migration");
    const auto migration = std::make_shared<std::optional<KvMigration>>();
    if (!argument.isNull()) *migration = readKvMigration(argument);
    return submit<KvMigrationResult>(
        info.Env(),
        [migration](EngineSlot& slot) {
          if (*migration) return loaded(slot).migrateKv(**migration);
          loaded(slot).dropPreviousKv();
          return KvMigrationResult{};
        },
        [](Napi::Env env, Napi::Object, const KvMigrationResult& result) { return toJs(env, result); });
  });
}

Napi::Value EngineObject::step(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto batch = std::make_shared<StepBatch>(readStepBatch(Argument(info[0], "batch")));
    return submit<StepResult>(
        info.Env(), [batch](EngineSlot& slot) { return loaded(slot).step(*batch); },
        [](Napi::Env env, Napi::Object, const StepResult& result) { return toJs(env, result); });
  });
}

Napi::Value EngineObject::report(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return submit<EngineReport>(
        info.Env(),
        [this](EngineSlot& slot) {
          EngineReport report = loaded(slot).report();
          report.transport = transport_;
          return report;
        },
        [](Napi::Env env, Napi::Object, const EngineReport& report) { return toJs(env, report); });
  });
}

Napi::Value EngineObject::abort(const Napi::CallbackInfo& info) {
  if (!closed_) thread_->abort();
  return info.Env().Null();
}

Napi::Value EngineObject::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Promise promise = state_->runInBackground(env, Value(), [thread = thread_]() -> MakeValue {
      thread->close();
      return [](Napi::Env jsEnv, Napi::Object) -> Napi::Value { return jsEnv.Null(); };
    });
    closed_ = true;  // not before: without a thread it is closed when JS lets go of it
    return promise;
  });
}

}  // namespace hels::binding
