#include "engine/gumbel.h"

#include <bit>
#include <cmath>

namespace hels {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;
constexpr int kBits = 53;

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

double logF64(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // [1/2, 1)
  if (mantissa < 0.70710678118654752440) {
    mantissa *= 2.0;
    --exponent;
  }
  // ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double sum = 1.0 / 25.0;
  for (int k = 23; k >= 3; k -= 2) sum = std::fma(sum, square, 1.0 / k);
  const double tail = 2.0 * s * square * sum;
  return std::fma(static_cast<double>(exponent), kLn2, 2.0 * s + tail);
}

GumbelNoise::GumbelNoise(uint64_t seed, int64_t position)
    : key_(mix(mix(seed + kGolden) + kGolden * (static_cast<uint64_t>(position) + 1))) {}

uint64_t GumbelNoise::bits(int32_t token) const {
  return mix(key_ + kGolden * (static_cast<uint64_t>(token) + 1)) >> (64 - kBits);
}

double GumbelNoise::value(uint64_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
  // Near 1, 1 - u is exact and carries the digits that u has lost.
  if (bits >= (uint64_t{1} << (kBits - 1))) {
    const double w = (static_cast<double>((uint64_t{1} << kBits) - 1 - bits) + 0.5) * 0x1p-53;
    if (w < 1e-5) return -logF64(w + w * w * (0.5 + w * (1.0 / 3.0)));  // -ln(1 - w) = w + w^2/2 + w^3/3 + ...
  }
  return -logF64(-logF64(u));
}

double GumbelNoise::bound(uint64_t bits) {
  // -ln(u) >= 1 - u >= 2^-(zeros + 1), with the leading zeros of the complement: value <= (zeros + 1) ln 2.
  const uint64_t complement = (uint64_t{1} << kBits) - 1 - bits;
  const int zeros = std::countl_zero(complement) - (64 - kBits);
  return static_cast<double>(zeros + 1) * kLn2 + 1e-9;
}

}  // namespace hels
