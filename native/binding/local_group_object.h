// The JS class of a group of ranks in one process (createLocalGroup): an opaque handle that connectLocal takes.
#pragma once

#include <napi.h>

#include <memory>

#include "comm/local_communicator.h"
#include "shard/shard_spec.h"

namespace hels::binding {

class LocalGroupObject : public Napi::ObjectWrap<LocalGroupObject> {
 public:
  static Napi::Function define(Napi::Env env);
  /// The communicator of `shard`'s rank. Throws kShapeInvalid unless `value` is a group of as many ranks as the
  /// shard's.
  static std::shared_ptr<Communicator> communicator(Napi::Value value, const ShardSpec& shard);

  explicit LocalGroupObject(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<LocalGroup> group_;
};

}  // namespace hels::binding
