// Counter-based noise for sampling: a pure function of (seed, position, token), so that a seeded request continues with
// the same tokens on any split and any host. argmax(logit / temperature + Gumbel noise) is a sample of the softmax
// (Gumbel 1954).
#pragma once

#include <cstdint>

namespace hels {

/// ln(x) in f64 by a fixed sequence of operations (atanh series), equal on every host; x > 0 and normal. Relative error
/// < 1e-15.
double logF64(double x);

/// The noise of all tokens at one position of one sequence.
class GumbelNoise {
 public:
  /// `position` is that of the token to be sampled.
  GumbelNoise(uint64_t seed, int64_t position);
  /// 53 random bits of a token.
  uint64_t bits(int32_t token) const;
  /// -ln(-ln(u)), u = (bits + 1/2) / 2^53.
  static double value(uint64_t bits);
  /// No value(bits) exceeds this: cheap, to skip tokens that cannot win.
  static double bound(uint64_t bits);

 private:
  uint64_t key_;
};

}  // namespace hels
