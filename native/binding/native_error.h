// Native failures as JS errors: `message`, and `code` = the name of hels::ErrorCode.
#pragma once

#include <napi.h>

#include <exception>

namespace hels::binding {

/// The JS Error of a C++ exception; anything that is not hels::Error gets the code "internal".
Napi::Error toJsError(Napi::Env env, const std::exception_ptr& failure);

/// Runs `body` and turns what it throws into a pending JS exception; every function the module exports is wrapped in
/// it.
template <typename Body>
Napi::Value guarded(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw toJsError(env, std::current_exception());
  }
}

}  // namespace hels::binding
