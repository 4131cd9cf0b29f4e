// Switches of one thread between stacks. swapcontext() asks the kernel for the signal mask at each of them: more time
// than all else in an emulated kernel. On x86-64 we switch ourselves; elsewhere by swapcontext().
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
/// Keeps what a call must keep on the stack, its end in `*from`, and goes on where `to` was kept. The modes of floating
/// point stay as they are: no kernel changes them.
extern "C" void helsSwitchStack(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace hels::emulation {

#if defined(__x86_64__)

/// Where a stack goes on.
class FiberContext {
 public:
  /// At the next switch here `entry`, which must not return, begins on `stack`. Bytes at the least: 256.
  void start(std::byte* stack, size_t bytes, void (*entry)()) {
    constexpr int kKept = 6;
    auto* top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
    *--top = 0;  // where `entry` would return to
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < kKept; ++i) *--top = 0;
    top_ = top;
  }
  /// Goes on at `next`; returns at the next switch here.
  void switchTo(FiberContext& next) { helsSwitchStack(&top_, next.top_); }

 private:
  void* top_ = nullptr;
};

#else

class FiberContext {
 public:
  void start(std::byte* stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switchTo(FiberContext& next) { swapcontext(&context_, &next.context_); }

 private:
  ucontext_t context_{};
};

#endif

}  // namespace hels::emulation
