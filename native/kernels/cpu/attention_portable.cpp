// The attention kernels in plain C++: the definition of the bits, and the fallback.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/exponential.h"

namespace hels {
namespace {

float elementAt(DataType type, const std::byte* data, int64_t index) {
  if (type == DataType::kF32) return reinterpret_cast<const float*>(data)[index];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(data)[index];
  return type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits);
}

void scores(DataType type, int64_t headDim, const float* const* queries, int rows, const ChunkTiles& keys,
            int64_t firstTile, int64_t endTile, float* result) {
  for (int row = 0; row < rows; ++row) {
    for (int64_t tile = firstTile; tile < endTile; ++tile) {
      for (int64_t j = 0; j < kAttentionTileTokens; ++j) {
        float sum = 0.0F;
        for (int64_t d = 0; d < headDim; ++d) {
          sum = std::fma(queries[row][d], elementAt(type, keys.data[tile], d * kAttentionTileTokens + j), sum);
        }
        result[row * kAttentionChunkTokens + tile * kAttentionTileTokens + j] = sum;
      }
    }
  }
}

void softmax(float* row, int64_t begin, int64_t end, float scale, float* maximum, float* sum) {
  *maximum = -std::numeric_limits<float>::infinity();
  for (int64_t j = begin; j < end; ++j) {
    row[j] *= scale;
    *maximum = *maximum > row[j] ? *maximum : row[j];
  }
  std::fill_n(row, begin, 0.0F);
  std::fill(row + end, row + kAttentionChunkTokens, 0.0F);
  float lanes[kAttentionTileTokens] = {};
  for (int64_t j = begin; j < end; ++j) {
    row[j] = expF32(row[j] - *maximum);
    lanes[j % kAttentionTileTokens] += row[j];
  }
  for (int64_t width = kAttentionTileTokens / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  *sum = lanes[0];
}

void values(DataType type, int64_t headDim, const float* weights, int rows, const ChunkTiles& tiles, int64_t begin,
            int64_t end, float* outputs, int64_t outputStride) {
  for (int row = 0; row < rows; ++row) {
    float* output = outputs + row * outputStride;
    std::fill_n(output, headDim, 0.0F);
    for (int64_t j = begin; j < end; ++j) {
      const std::byte* tile = tiles.data[j / kAttentionTileTokens];
      const float weight = weights[row * kAttentionChunkTokens + j];
      for (int64_t d = 0; d < headDim; ++d) {
        output[d] = std::fma(weight, elementAt(type, tile, j % kAttentionTileTokens * headDim + d), output[d]);
      }
    }
  }
}

void exponentials(float* values) {
  for (int i = 0; i < 2 * kAttentionRowsMax; ++i) values[i] = expF32(values[i]);
}

void merge(float* total, float totalScale, const float* part, float partScale, int64_t count) {
  for (int64_t d = 0; d < count; ++d) total[d] = std::fma(total[d], totalScale, part[d] * partScale);
}

void divide(float* values, float divisor, int64_t count) {
  for (int64_t d = 0; d < count; ++d) values[d] /= divisor;
}

}  // namespace

const AttentionKernels& portableAttentionKernels() {
  static const AttentionKernels kernels{scores, softmax, values, exponentials, merge, divide};
  return kernels;
}

}  // namespace hels
