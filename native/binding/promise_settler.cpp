#include "binding/promise_settler.h"

#include <memory>
#include <utility>

#include "binding/native_error.h"

namespace hels::binding {

class PromiseSettler::Ticket {
 public:
  Ticket(Napi::Env env, Napi::Object owner)
      : deferred(Napi::Promise::Deferred::New(env)), ownerReference(Napi::Persistent(owner)) {}

  Napi::Promise::Deferred deferred;
  Napi::ObjectReference ownerReference;
  std::exception_ptr failure;
  MakeValue makeValue;
};

PromiseSettler::PromiseSettler(Napi::Env env) : function_(ThreadSafeFunction::New(env, "hels", 0, 1, this)) {
  function_.Unref(env);
}

PromiseSettler::Ticket* PromiseSettler::open(Napi::Env env, Napi::Object owner) {
  auto ticket = std::make_unique<Ticket>(env, owner);
  if (open_++ == 0) function_.Ref(env);
  return ticket.release();
}

Napi::Promise PromiseSettler::promiseOf(const Ticket& ticket) { return ticket.deferred.Promise(); }

void PromiseSettler::discard(Napi::Env env, Ticket* ticket) {
  delete ticket;
  countDown(env);
}

void PromiseSettler::settle(Ticket* ticket, std::exception_ptr failure, MakeValue makeValue) {
  ticket->failure = std::move(failure);
  ticket->makeValue = std::move(makeValue);
  // It fails only while the environment ends. The ticket is left to the environment then: its handles may be freed on
  // the JS thread alone, and nobody waits for the promise any more.
  function_.BlockingCall(ticket);
}

void PromiseSettler::release() { function_.Release(); }

void PromiseSettler::onJsThread(Napi::Env env, Napi::Function /*callback*/, PromiseSettler* settler, Ticket* ticket) {
  if (env == nullptr) return;  // the environment ends: as in settle()
  const std::unique_ptr<Ticket> owned(ticket);
  settler->countDown(env);
  if (ticket->failure) {
    ticket->deferred.Reject(toJsError(env, ticket->failure).Value());
    return;
  }
  try {
    ticket->deferred.Resolve(ticket->makeValue(env, ticket->ownerReference.Value()));
  } catch (const Napi::Error& error) {
    ticket->deferred.Reject(error.Value());
  }
}

void PromiseSettler::countDown(Napi::Env env) {
  if (--open_ == 0) function_.Unref(env);
}

}  // namespace hels::binding
