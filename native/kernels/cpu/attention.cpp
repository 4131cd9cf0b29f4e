#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_kernels.h"

namespace hels {
namespace {

/// Which positions of a chunk a row sees, [begin, end) within the chunk.
struct Visible {
  int64_t begin = 0;
  int64_t end = 0;
};

int64_t firstVisible(const AttentionShape& shape, int64_t position) {
  return shape.window == 0 ? 0 : std::max<int64_t>(0, position - shape.window + 1);
}

Visible visibleIn(const AttentionShape& shape, int64_t chunk, int64_t position) {
  const int64_t start = chunk * kAttentionChunkTokens;
  const int64_t begin = std::max<int64_t>(0, firstVisible(shape, position) - start);
  const int64_t end = std::min(kAttentionChunkTokens, position + 1 - start);
  return end > begin ? Visible{begin, end} : Visible{};
}

class Attention {
 public:
  Attention(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, float* workspace,
            const AttentionKernels& kernels)
      : shape_(shape),
        kv_(kv),
        rows_(rows),
        kernels_(kernels),
        scores_(workspace),
        part_(workspace + kAttentionRowsMax * kAttentionChunkTokens) {}

  void run() {
    for (int row = 0; row < rows_.count; ++row) {
      maximum_[row] = -std::numeric_limits<float>::infinity();
      sum_[row] = 0.0F;
      std::fill_n(rows_.outputs[row], shape_.headDim, 0.0F);
    }
    const int64_t first = firstVisible(shape_, rows_.positions[0]) / kAttentionChunkTokens;
    const int64_t last = rows_.positions[rows_.count - 1] / kAttentionChunkTokens;
    for (int64_t chunk = first; chunk <= last; ++chunk) {
      // Rows ascend by position, so those that see the chunk are adjacent.
      int begin = 0;
      while (begin < rows_.count && empty(chunk, begin)) ++begin;
      int end = begin;
      while (end < rows_.count && !empty(chunk, end)) ++end;
      if (begin < end) attendChunk(chunk, begin, end);
    }
    for (int row = 0; row < rows_.count; ++row) {
      kernels_.divide(rows_.outputs[row], sum_[row], shape_.headDim);
    }
  }

 private:
  bool empty(int64_t chunk, int row) const { return visibleIn(shape_, chunk, rows_.positions[row]).end == 0; }

  void attendChunk(int64_t chunk, int begin, int end) {
    Visible visible[kAttentionRowsMax];
    int64_t low = kAttentionChunkTokens;
    int64_t high = 0;
    for (int row = begin; row < end; ++row) {
      visible[row] = visibleIn(shape_, chunk, rows_.positions[row]);
      low = std::min(low, visible[row].begin);
      high = std::max(high, visible[row].end);
    }
    const std::byte* keys[kAttentionTiles] = {};
    const std::byte* values[kAttentionTiles] = {};
    const int64_t firstTile = low / kAttentionTileTokens;
    const int64_t endTile = (high + kAttentionTileTokens - 1) / kAttentionTileTokens;
    for (int64_t tile = firstTile; tile < endTile; ++tile) locate(chunk, tile, keys[tile], values[tile]);

    kernels_.scores(kv_.type, shape_.headDim, rows_.queries + begin, end - begin, keys, firstTile, endTile,
                    scoresOf(begin));
    float maximum[kAttentionRowsMax];
    float sum[kAttentionRowsMax];
    for (int row = begin; row < end; ++row) {
      kernels_.softmax(scoresOf(row), visible[row].begin, visible[row].end, shape_.scale, &maximum[row], &sum[row]);
    }
    for (int row = begin; row < end;) {  // rows that see the same positions share the loads of values
      int next = row + 1;
      while (next < end && visible[next].begin == visible[row].begin && visible[next].end == visible[row].end) ++next;
      kernels_.values(kv_.type, shape_.headDim, scoresOf(row), next - row, values, visible[row].begin, visible[row].end,
                      partOf(row), shape_.headDim);
      row = next;
    }
    merge(begin, end, maximum, sum);
  }

  /// Keys and values of a tile: blocks hold whole tiles.
  void locate(int64_t chunk, int64_t tile, const std::byte*& keys, const std::byte*& values) const {
    const int64_t position = chunk * kAttentionChunkTokens + tile * kAttentionTileTokens;
    const int64_t block = kv_.blockTable[position / kv_.blockTokens];
    const int64_t offsetBytes = block * kv_.blockStrideBytes +
                                position % kv_.blockTokens * shape_.headDim * static_cast<int64_t>(bytesOf(kv_.type));
    keys = kv_.keys + offsetBytes;
    values = kv_.values + offsetBytes;
  }

  /// Online softmax: brings what was there and the chunk's part to one maximum.
  void merge(int begin, int end, const float* maximum, const float* sum) {
    float scales[2 * kAttentionRowsMax] = {};  // of what was there, then of the parts
    for (int row = begin; row < end; ++row) {
      const float both = std::max(maximum_[row], maximum[row]);
      scales[row] = maximum_[row] - both;
      scales[kAttentionRowsMax + row] = maximum[row] - both;
      maximum_[row] = both;
    }
    kernels_.exponentials(scales);
    for (int row = begin; row < end; ++row) {
      const float totalScale = scales[row];
      const float partScale = scales[kAttentionRowsMax + row];
      kernels_.merge(rows_.outputs[row], totalScale, partOf(row), partScale, shape_.headDim);
      kernels_.merge(&sum_[row], totalScale, &sum[row], partScale, 1);
    }
  }

  float* scoresOf(int row) { return scores_ + row * kAttentionChunkTokens; }
  float* partOf(int row) { return part_ + row * shape_.headDim; }

  const AttentionShape& shape_;
  const KvBlocks& kv_;
  const AttentionRows& rows_;
  const AttentionKernels& kernels_;
  float* scores_;  // (rows, 64)
  float* part_;    // (rows, headDim)
  float maximum_[kAttentionRowsMax];
  float sum_[kAttentionRowsMax];
};

}  // namespace

const AttentionKernels& attentionKernels(Isa isa) {
#ifdef HELS_X86
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Bf16) return avx512AttentionKernels();
  if (isa == Isa::kAvx2) return avx2AttentionKernels();
#else
  (void)isa;
#endif
  return portableAttentionKernels();
}

size_t attentionWorkspaceFloats(int64_t headDim) {
  return static_cast<size_t>(kAttentionRowsMax * (kAttentionChunkTokens + headDim));
}

void attend(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, float* workspace, Isa isa) {
  Attention(shape, kv, rows, workspace, attentionKernels(isa)).run();
}

}  // namespace hels
