// A model's files, opened to be quantised tensor by tensor.
#pragma once

#include <napi.h>

#include <memory>

#include "model/weight_source.h"

namespace hels::binding {

class QuantizerObject final : public Napi::ObjectWrap<QuantizerObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit QuantizerObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value quantize(const Napi::CallbackInfo& info);
  Napi::Value copy(const Napi::CallbackInfo& info);

  std::shared_ptr<const WeightSource> source_;
};

}  // namespace hels::binding
