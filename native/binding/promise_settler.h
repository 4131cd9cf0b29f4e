// Settles JS promises from native threads, in the order in which they were handed over.
#pragma once

#include <napi.h>

#include <exception>
#include <functional>

namespace hels::binding {

/// Makes the value of a promise on the JS thread, given the object that owns the promise. It may be destroyed on any
/// thread, so it captures no JS handles.
using MakeValue = std::function<Napi::Value(Napi::Env, Napi::Object)>;

class PromiseSettler {
 public:
  /// One promise that is not settled yet. Belongs to the settler.
  class Ticket;

  explicit PromiseSettler(Napi::Env env);
  PromiseSettler(const PromiseSettler&) = delete;
  PromiseSettler& operator=(const PromiseSettler&) = delete;

  /// JS thread. `owner` is not collected before the promise settles; the process does not end by itself before that
  /// either.
  Ticket* open(Napi::Env env, Napi::Object owner);
  static Napi::Promise promiseOf(const Ticket& ticket);
  /// JS thread. Gives a ticket back whose promise nobody has seen.
  void discard(Napi::Env env, Ticket* ticket);

  /// Any thread, once per ticket: rejects with `failure` unless it is null.
  void settle(Ticket* ticket, std::exception_ptr failure, MakeValue makeValue);

  /// JS thread, after the last native thread ended.
  void release();

 private:
  static void onJsThread(Napi::Env env, Napi::Function callback, PromiseSettler* settler, Ticket* ticket);
  void countDown(Napi::Env env);

  using ThreadSafeFunction = Napi::TypedThreadSafeFunction<PromiseSettler, Ticket, onJsThread>;
  ThreadSafeFunction function_;
  size_t open_ = 0;  // JS thread only
};

}  // namespace hels::binding
