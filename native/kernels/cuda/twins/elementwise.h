// The twins in f64 of the element-wise kernels: the residual stream with its norms, and the activation.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cuda/activation.h"
#include "kernels/cuda/norm.h"

namespace hels::cuda::twins {

/// A row of the residual stream and the output of its norm.
struct ResidualRow {
  std::vector<double> residual;
  std::vector<double> output;
};

/// advanceResidual() of one row: `sums` and `bias` may be empty, `normBias` too unless `norm` is kLayer.
inline ResidualRow advancedRow(const std::vector<float>& residual, const std::vector<int64_t>& sums,
                               const std::vector<float>& bias, RowNorm norm, const std::vector<float>& weight,
                               const std::vector<float>& normBias, double epsilon, bool normStays) {
  ResidualRow row{std::vector<double>(residual.begin(), residual.end()), {}};
  const auto count = static_cast<double>(residual.size());
  double mean = 0.0;
  double squares = 0.0;
  for (size_t i = 0; i < residual.size(); ++i) {
    if (!sums.empty()) row.residual[i] += static_cast<double>(sums[i]) * 0x1p-32;
    if (!sums.empty() && !bias.empty()) row.residual[i] += static_cast<double>(bias[i]);
    mean += row.residual[i] / count;
  }
  if (norm != RowNorm::kLayer) mean = 0.0;
  for (const double value : row.residual) squares += (value - mean) * (value - mean);
  const double scale = 1.0 / std::sqrt(squares / count + epsilon);
  for (size_t i = 0; i < residual.size(); ++i) {
    double value = row.residual[i];
    if (norm != RowNorm::kCopy) value = (value - mean) * scale * static_cast<double>(weight[i]);
    if (norm == RowNorm::kLayer) value += static_cast<double>(normBias[i]);
    row.output.push_back(value);
  }
  if (normStays) row.residual = row.output;
  return row;
}

/// activate() of one row of inputs (gate, then up, or the one input); `bias` may be empty.
inline std::vector<double> activatedRow(ActivationKind kind, bool gated, const std::vector<float>& input,
                                        const std::vector<float>& bias) {
  const size_t columns = gated ? input.size() / 2 : input.size();
  const auto biased = [&](size_t i) {
    return static_cast<double>(input[i]) + (bias.empty() ? 0.0 : static_cast<double>(bias[i]));
  };
  std::vector<double> output;
  for (size_t i = 0; i < columns; ++i) {
    const double value = biased(i);
    const double activated = kind == ActivationKind::kSilu ? value / (1.0 + std::exp(-value)) : std::max(0.0, value);
    output.push_back(gated ? activated * biased(columns + i) : activated);
  }
  return output;
}

}  // namespace hels::cuda::twins
