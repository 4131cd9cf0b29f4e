#include "kernels/cpu/isa.h"

#ifdef HELS_X86
#include <cpuid.h>
#endif

namespace hels {

#ifdef HELS_X86
namespace {

/// Processor features that not every compiler's __builtin_cpu_supports knows by name.
bool hasHalfConversion() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) == 1 && (ecx & bit_F16C) != 0;
}
bool hasBf16DotProduct() {
  constexpr unsigned kAvx512Bf16 = 1U << 5U;  // leaf 7.1, EAX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 1 && (eax & kAvx512Bf16) != 0;
}

}  // namespace
#endif

bool isaSupported(Isa isa) {
#ifdef HELS_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && hasHalfConversion();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == Isa::kAvx512Bf16) return avx512 && hasBf16DotProduct();
  if (isa == Isa::kAvx512) return avx512;
  if (isa == Isa::kAvx2) return avx2;
#endif
  return isa == Isa::kPortable;
}

Isa bestIsa() {
  static const Isa best = isaSupported(Isa::kAvx512Bf16) ? Isa::kAvx512Bf16
                          : isaSupported(Isa::kAvx512)   ? Isa::kAvx512
                          : isaSupported(Isa::kAvx2)     ? Isa::kAvx2
                                                         : Isa::kPortable;
  return best;
}

const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

}  // namespace hels
