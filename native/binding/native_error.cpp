#include "binding/native_error.h"

#include <new>
#include <string>

#include "base/error.h"

namespace hels::binding {
namespace {

Napi::Error make(Napi::Env env, ErrorCode code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, errorCodeName(code)));
  return error;
}

}  // namespace

Napi::Error toJsError(Napi::Env env, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return make(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return make(env, ErrorCode::kMemoryExceeded, "the host has no memory left");
  } catch (const std::exception& error) {
    return make(env, ErrorCode::kInternal, error.what());
  } catch (...) {
    return make(env, ErrorCode::kInternal, "an exception of unknown type");
  }
}

}  // namespace hels::binding
