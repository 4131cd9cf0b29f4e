#include "kernels/cuda/emulation/fiber_switch.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl helsSwitchStack
.hidden helsSwitchStack
.type helsSwitchStack, @function
helsSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size helsSwitchStack, .-helsSwitchStack
)");
#endif
