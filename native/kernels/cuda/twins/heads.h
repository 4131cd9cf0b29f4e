// The twin of prepareHeads() in f64.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace hels::cuda::twins {

/// One head: adds `bias`, norms by `norm` with `epsilon`, rotates by `table` (headDim / 2 cosines, then as many sines).
/// Empty vectors: not done.
inline std::vector<double> prepareHead(std::vector<double> head, const std::vector<double>& bias,
                                       const std::vector<double>& norm, double epsilon,
                                       const std::vector<double>& table) {
  const size_t headDim = head.size();
  for (size_t d = 0; d < bias.size(); ++d) head[d] += bias[d];
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : head) squares += value * value;
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(headDim) + epsilon);
    for (size_t d = 0; d < headDim; ++d) head[d] *= scale * norm[d];
  }
  if (table.empty()) return head;
  const size_t half = headDim / 2;
  std::vector<double> turned(headDim);
  for (size_t d = 0; d < half; ++d) {
    turned[d] = head[d] * table[d] - head[d + half] * table[d + half];
    turned[d + half] = head[d + half] * table[d] + head[d] * table[d + half];
  }
  return turned;
}

}  // namespace hels::cuda::twins
