#include "binding/quantizer_object.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "binding/addon_state.h"
#include "binding/argument.h"
#include "binding/convert.h"
#include "binding/native_error.h"
#include "model/quantize_tensor.h"

namespace hels::binding {
namespace {

Napi::Value toJs(Napi::Env env, const std::vector<uint8_t>& bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(array.Data(), bytes.data(), bytes.size());
  return array;
}

}  // namespace

Napi::Function QuantizerObject::define(Napi::Env env) {
  return DefineClass(env, "Quantizer",
                     {
                         InstanceMethod("quantize", &QuantizerObject::quantize),
                         InstanceMethod("copy", &QuantizerObject::copy),
                     });
}

/// (directory)
QuantizerObject::QuantizerObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&]() -> Napi::Value {
    source_ = WeightSource::open(Argument(info[0], "directory").string());
    return info.Env().Null();
  });
}

/// ({tensor, shape, rows, quantization, granule}) -> Promise of {values, scales}, as bytes of the file.
Napi::Value QuantizerObject::quantize(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Argument request(info[0], "quantize");
    const std::string tensor = request.field("tensor").string();
    const Argument shape = request.field("shape");
    const std::vector<int64_t> sizes{shape.at(0).integer(0, kSafeInteger), shape.at(1).integer(0, kSafeInteger)};
    const Argument rows = request.field("rows");
    const Range range{rows.field("begin").integer(0, sizes[0]), rows.field("end").integer(0, sizes[0])};
    const auto quantization = readQuantization(request.field("quantization"));
    const int64_t granule = request.field("granule").integer(1, kSafeInteger);
    const auto work = [source = source_, tensor, sizes, range, quantization, granule]() -> MakeValue {
      auto bytes = std::make_shared<TensorBytes>(quantizeTensor(*source, tensor, sizes, range, quantization, granule));
      return [bytes](Napi::Env env, Napi::Object) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("values", toJs(env, bytes->values));
        result.Set("scales", toJs(env, bytes->scales));
        return result;
      };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Value(), work);
  });
}

/// (tensor) -> Promise of its bytes as they are.
Napi::Value QuantizerObject::copy(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string name = Argument(info[0], "tensor").string();
    const auto work = [source = source_, name]() -> MakeValue {
      const TensorView* tensor = source->find(name);
      require(tensor != nullptr, ErrorCode::kModelInvalid, "tensor " + nameText(name) + " is missing");
      const auto* data = reinterpret_cast<const uint8_t*>(tensor->data);
      auto bytes = std::make_shared<std::vector<uint8_t>>(data, data + tensor->sizeBytes);
      return [bytes](Napi::Env env, Napi::Object) { return toJs(env, *bytes); };
    };
    return AddonState::of(info.Env()).runInBackground(info.Env(), Value(), work);
  });
}

}  // namespace hels::binding
