#include "kernels/cpu/isa.h"

#ifdef HELS_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
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
/// Tiles of bf16, and the kernel's leave for this process to use their registers.
bool mayUseTiles() {
#ifdef __linux__
  constexpr unsigned kTiles = 1U << 22U | 1U << 24U;  // leaf 7.0, EDX: AMX-BF16 and AMX-TILE
  constexpr long kRequestPermission = 0x1023;         // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  static const bool allowed = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 1 && (edx & kTiles) == kTiles &&
                              syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
#else
  return false;
#endif
}

}  // namespace
#endif

bool isaSupported(Isa isa) {
#ifdef HELS_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && hasHalfConversion();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == Isa::kAmx) return avx512 && hasBf16DotProduct() && mayUseTiles();
  if (isa == Isa::kAvx512Bf16) return avx512 && hasBf16DotProduct();
  if (isa == Isa::kAvx512) return avx512;
  if (isa == Isa::kAvx2) return avx2;
#endif
  return isa == Isa::kPortable;
}

Isa bestIsa() {
  static const Isa best = [] {
    Isa found = Isa::kPortable;
    for (const Isa isa : kIsas) {
      if (isaSupported(isa)) found = isa;
    }
    return found;
  }();
  return best;
}

const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
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
