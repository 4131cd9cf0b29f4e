// The processor's intrinsics where AVX-512 is used. Include only where HELS_X86 is defined.
#pragma once

#include <immintrin.h>

// GCC 12's own avx512fintrin.h passes deliberately undefined registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
