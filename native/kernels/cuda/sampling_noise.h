// The noise of engine/gumbel.h on the device, to the bit: the same operations in f64, none of them fused but where
// fma() says so.
#pragma once

#include "kernels/cuda/device.h"

namespace hels::cuda {

/// 1 + the position of the highest bit that is set; 0 for 0.
__device__ __forceinline__ int bitWidth(unsigned long long value) {
#ifdef HELS_CUDA_EMULATION
  return static_cast<int>(std::bit_width(value));
#else
  return 64 - __clzll(static_cast<long long>(value));
#endif
}

__device__ __forceinline__ double doubleOf(unsigned long long bits) {
#ifdef HELS_CUDA_EMULATION
  return std::bit_cast<double>(bits);
#else
  return __longlong_as_double(static_cast<long long>(bits));
#endif
}

__device__ __forceinline__ unsigned long long bitsOf(double value) {
#ifdef HELS_CUDA_EMULATION
  return std::bit_cast<unsigned long long>(value);
#else
  return static_cast<unsigned long long>(__double_as_longlong(value));
#endif
}

/// ln(x) of logF64(); x > 0 and normal.
__device__ __forceinline__ double logNoise(double x) {
  constexpr double kLn2 = 0.69314718055994530942;
  constexpr unsigned long long kExponentBits = 0x7FFULL << 52;
  const unsigned long long bits = bitsOf(x);
  int exponent = static_cast<int>((bits >> 52) & 0x7FF) - 1022;
  double mantissa = doubleOf((bits & ~kExponentBits) | 1022ULL << 52);  // [1/2, 1)
  if (mantissa < 0.70710678118654752440) {
    mantissa *= 2.0;
    --exponent;
  }
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double sum = 1.0 / 25.0;
  sum = fma(sum, square, 1.0 / 23.0);
  sum = fma(sum, square, 1.0 / 21.0);
  sum = fma(sum, square, 1.0 / 19.0);
  sum = fma(sum, square, 1.0 / 17.0);
  sum = fma(sum, square, 1.0 / 15.0);
  sum = fma(sum, square, 1.0 / 13.0);
  sum = fma(sum, square, 1.0 / 11.0);
  sum = fma(sum, square, 1.0 / 9.0);
  sum = fma(sum, square, 1.0 / 7.0);
  sum = fma(sum, square, 1.0 / 5.0);
  sum = fma(sum, square, 1.0 / 3.0);
  const double tail = 2.0 * s * square * sum;
  return fma(static_cast<double>(exponent), kLn2, 2.0 * s + tail);
}

/// GumbelNoise of one sequence and position.
class DeviceNoise {
 public:
  __device__ __forceinline__ DeviceNoise(unsigned long long seed, long long position)
      : key_(mix(mix(seed + kGolden) + kGolden * (static_cast<unsigned long long>(position) + 1))) {}

  __device__ __forceinline__ unsigned long long bits(int token) const {
    return mix(key_ + kGolden * (static_cast<unsigned long long>(token) + 1)) >> (64 - kBits);
  }
  __device__ static __forceinline__ double value(unsigned long long bits) {
    const double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    if (bits >= 1ULL << (kBits - 1)) {
      const double w = (static_cast<double>((1ULL << kBits) - 1 - bits) + 0.5) * 0x1p-53;
      if (w < 1e-5) return -logNoise(w + w * w * (0.5 + w * (1.0 / 3.0)));
    }
    return -logNoise(-logNoise(u));
  }
  __device__ static __forceinline__ double bound(unsigned long long bits) {
    const int zeros = kBits - bitWidth((1ULL << kBits) - 1 - bits);
    return static_cast<double>(zeros + 1) * 0.69314718055994530942 + 1e-9;
  }

 private:
  static constexpr unsigned long long kGolden = 0x9e3779b97f4a7c15ULL;
  static constexpr int kBits = 53;

  __device__ static __forceinline__ unsigned long long mix(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }

  unsigned long long key_;
};

}  // namespace hels::cuda
