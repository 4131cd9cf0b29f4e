#include "binding/local_group_object.h"

#include <string>

#include "base/error.h"
#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/native_error.h"

namespace hels::binding {
namespace {

constexpr int64_t kRanksMax = 1024;

}  // namespace

Napi::Function LocalGroupObject::define(Napi::Env env) { return DefineClass(env, "LocalGroup", {}); }

LocalGroupObject::LocalGroupObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&]() -> Napi::Value {
    group_ = LocalGroup::create(static_cast<int>(Argument(info[0], "ranks").integer(1, kRanksMax)));
    return info.Env().Null();
  });
}

std::shared_ptr<Communicator> LocalGroupObject::communicator(Napi::Value value, const ShardSpec& shard) {
  const bool isGroup = value.IsObject() &&
                       value.As<Napi::Object>().InstanceOf(AddonState::of(value.Env()).localGroupConstructor.Value());
  if (!isGroup) Argument(value, "group").refuse("what createLocalGroup returned");
  const LocalGroupObject* object = Unwrap(value.As<Napi::Object>());
  require(object->group_->ranks() == shard.ranks, ErrorCode::kShapeInvalid,
          "group has " + std::to_string(object->group_->ranks()) + " ranks; the shard was made for " +
              std::to_string(shard.ranks));
  return object->group_->communicator(shard.rank);
}

}  // namespace hels::binding
