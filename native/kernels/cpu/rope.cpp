#include "kernels/cpu/rope.h"

#include <cmath>
#include <numbers>

namespace hels {
namespace {

double llama3Frequency(const ModelSpec& model, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(model.ropeOriginalMaxPositions);
  if (wavelength > original / model.ropeLowFrequencyFactor) return frequency / model.ropeFactor;
  if (wavelength < original / model.ropeHighFrequencyFactor) return frequency;
  const double smooth = (original / wavelength - model.ropeLowFrequencyFactor) /
                        (model.ropeHighFrequencyFactor - model.ropeLowFrequencyFactor);
  return (1.0 - smooth) * frequency / model.ropeFactor + smooth * frequency;
}

}  // namespace

std::vector<float> ropeFrequencies(const ModelSpec& model) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < model.headDim / 2; ++i) {
    double frequency = std::pow(model.ropeTheta, -2.0 * static_cast<double>(i) / static_cast<double>(model.headDim));
    if (model.ropeScaling == RopeScaling::kLinear) frequency /= model.ropeFactor;
    if (model.ropeScaling == RopeScaling::kLlama3) frequency = llama3Frequency(model, frequency);
    frequencies.push_back(static_cast<float>(frequency));
  }
  return frequencies;
}

void fillRopeRow(const std::vector<float>& frequencies, int64_t position, float* table) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];  // rounded to f32, as the models were trained
    table[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    table[frequencies.size() + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void applyRope(float* head, const float* table, int64_t headDim) {
  const int64_t half = headDim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i];
    const float second = head[i + half];
    head[i] = first * table[i] - second * table[half + i];
    head[i + half] = second * table[i] + first * table[half + i];
  }
}

}  // namespace hels
