// The instruction sets that kernels are written for. All give the same bits: every kernel is defined by its scalar form
// (chains of std::fma in a fixed order), the vector forms only run many chains at once.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#define HELS_X86 1
#define HELS_AVX2 __attribute__((target("avx2,fma,f16c")))
#define HELS_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define HELS_AVX512_BF16 __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#endif

namespace hels {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };

inline constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};

/// The fastest set this processor has.
Isa bestIsa();
/// Whether this processor, and for kAmx the operating system, can run kernels of `isa`.
bool isaSupported(Isa isa);
/// "portable", "avx2", "avx512", "avx512bf16", "amx".
const char* isaName(Isa isa);

}  // namespace hels
