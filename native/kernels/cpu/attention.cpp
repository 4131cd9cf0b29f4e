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

/// Tiles on their way to the second-level cache. The hardware's own prefetching ends with a page, and tiles are short.
constexpr int kTilesAhead = 6;

/// What a call asks for while it reads its own tiles: those from the kTilesAhead-th on, then what the next call reads.
/// The first ones were asked for by the call before.
class ReadAhead {
 public:
  ReadAhead(const KvWalk& own, const KvWalk& next) : own_(own), next_(next) {
    for (int tile = 0; tile < kTilesAhead && !own_.done(); ++tile) last_ = own_.next();
  }

  /// At the end the same tile again, which is there already.
  const std::byte* tile() {
    if (!own_.done()) {
      last_ = own_.next();
    } else if (!next_.done()) {
      last_ = next_.next();
    }
    return last_;
  }

 private:
  KvWalk own_;
  KvWalk next_;
  const std::byte* last_ = nullptr;
};

/// One call's rows over chunks of a cache.
class Attention {
 public:
  Attention(const AttentionShape& shape, const AttentionRows& rows, const AttentionKernels& kernels)
      : shape_(shape), rows_(rows), kernels_(kernels) {}

  void begin(AttentionSums& sums) const {
    for (int row = 0; row < rows_.count; ++row) {
      sums.maximum[row] = -std::numeric_limits<float>::infinity();
      sums.sum[row] = 0.0F;
      std::fill_n(rows_.outputs[row], shape_.headDim, 0.0F);
    }
  }

  void attend(const KvBlocks& kv, ChunkRange chunks, AttentionSums& sums, float* workspace, const KvWalk& next) const {
    ReadAhead ahead(walk(kv, chunks), next);
    float* parts = workspace + kAttentionRowsMax * kAttentionChunkTokens;
    for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      const RowRange seeing = rowsThatSee(chunk);
      if (seeing.begin == seeing.end) continue;
      float maximum[kAttentionRowsMax] = {};
      float sum[kAttentionRowsMax] = {};
      attendChunk(kv, chunk, seeing, ahead, workspace, parts, shape_.headDim, maximum, sum);
      merge(seeing, parts, shape_.headDim, maximum, sum, sums);
    }
  }

  void mergeChunk(int64_t chunk, const AttentionParts& parts, AttentionSums& sums) const {
    const RowRange seeing = rowsThatSee(chunk);
    const int64_t stride = attentionPartFloats(shape_.headDim);
    const float* first = parts.data + (parts.firstRow + seeing.begin) * stride;
    float maximum[kAttentionRowsMax] = {};
    float sum[kAttentionRowsMax] = {};
    for (int row = seeing.begin; row < seeing.end; ++row) {
      const float* part = first + (row - seeing.begin) * stride;
      maximum[row] = part[shape_.headDim];
      sum[row] = part[shape_.headDim + 1];
    }
    if (seeing.begin < seeing.end) merge(seeing, first, stride, maximum, sum, sums);
  }

  void finish(const AttentionSums& sums) const {
    for (int row = 0; row < rows_.count; ++row) kernels_.divide(rows_.outputs[row], sums.sum[row], shape_.headDim);
  }

  void attendPart(const KvBlocks& kv, int64_t chunk, float* parts, float* workspace, const KvWalk& next) const {
    ReadAhead ahead(walk(kv, {chunk, chunk + 1}), next);
    const int64_t stride = attentionPartFloats(shape_.headDim);
    float maximum[kAttentionRowsMax] = {};
    float sum[kAttentionRowsMax] = {};
    attendChunk(kv, chunk, {0, rows_.count}, ahead, workspace, parts, stride, maximum, sum);
    for (int row = 0; row < rows_.count; ++row) {
      parts[row * stride + shape_.headDim] = maximum[row];
      parts[row * stride + shape_.headDim + 1] = sum[row];
    }
  }

 private:
  struct RowRange {
    int begin = 0;
    int end = 0;
  };

  /// Rows ascend by position, so those that see a chunk are adjacent.
  RowRange rowsThatSee(int64_t chunk) const {
    const auto sees = [&](int row) { return visibleIn(shape_, chunk, rows_.positions[row]).end != 0; };
    int begin = 0;
    while (begin < rows_.count && !sees(begin)) ++begin;
    int end = begin;
    while (end < rows_.count && sees(end)) ++end;
    return {begin, end};
  }

  /// Parts of the rows in `seeing`, the first row's first: o to parts(seeing, stride), m and l by row.
  void attendChunk(const KvBlocks& kv, int64_t chunk, RowRange seeing, ReadAhead& ahead, float* scores, float* parts,
                   int64_t stride, float* maximum, float* sum) const {
    Visible visible[kAttentionRowsMax];
    int64_t low = kAttentionChunkTokens;
    int64_t high = 0;
    for (int row = seeing.begin; row < seeing.end; ++row) {
      visible[row] = visibleIn(shape_, chunk, rows_.positions[row]);
      low = std::min(low, visible[row].begin);
      high = std::max(high, visible[row].end);
    }
    const int64_t firstTile = low / kAttentionTileTokens;
    const int64_t endTile = (high + kAttentionTileTokens - 1) / kAttentionTileTokens;
    ChunkTiles keys;
    ChunkTiles values;
    for (int64_t tile = firstTile; tile < endTile; ++tile) {
      const int64_t offsetBytes = tileOffsetBytes(kv, shape_.headDim, chunk * kAttentionTiles + tile);
      keys.data[tile] = kv.keys + offsetBytes;
      values.data[tile] = kv.values + offsetBytes;
    }
    for (ChunkTiles* tiles : {&keys, &values}) {
      for (int64_t tile = firstTile; tile < endTile; ++tile) tiles->ahead[tile] = ahead.tile();
    }

    kernels_.scores(kv.type, shape_.headDim, rows_.queries + seeing.begin, seeing.end - seeing.begin, keys, firstTile,
                    endTile, scores);
    const auto scoresOf = [&](int row) { return scores + (row - seeing.begin) * kAttentionChunkTokens; };
    for (int row = seeing.begin; row < seeing.end; ++row) {
      kernels_.softmax(scoresOf(row), visible[row].begin, visible[row].end, shape_.scale, &maximum[row], &sum[row]);
    }
    for (int row = seeing.begin; row < seeing.end;) {  // rows that see the same positions share the loads of values
      int next = row + 1;
      while (next < seeing.end && visible[next].begin == visible[row].begin && visible[next].end == visible[row].end) {
        ++next;
      }
      kernels_.values(kv.type, shape_.headDim, scoresOf(row), next - row, values, visible[row].begin, visible[row].end,
                      parts + (row - seeing.begin) * stride, stride);
      row = next;
    }
  }

  KvWalk walk(const KvBlocks& kv, ChunkRange chunks) const {
    return {kv, shape_.headDim, visibleTiles(shape_, rows_.positions[0], rows_.positions[rows_.count - 1], chunks)};
  }

  /// Online softmax: brings what was there and the chunk's parts(seeing, stride) to one maximum.
  void merge(RowRange seeing, const float* parts, int64_t stride, const float* maximum, const float* sum,
             AttentionSums& sums) const {
    float scales[2 * kAttentionRowsMax] = {};  // of what was there, then of the parts
    for (int row = seeing.begin; row < seeing.end; ++row) {
      const float both = std::max(sums.maximum[row], maximum[row]);
      scales[row] = sums.maximum[row] - both;
      scales[kAttentionRowsMax + row] = maximum[row] - both;
      sums.maximum[row] = both;
    }
    kernels_.exponentials(scales);
    for (int row = seeing.begin; row < seeing.end; ++row) {
      const float totalScale = scales[row];
      const float partScale = scales[kAttentionRowsMax + row];
      const float* part = parts + (row - seeing.begin) * stride;
      kernels_.merge(rows_.outputs[row], totalScale, part, partScale, shape_.headDim);
      kernels_.merge(&sums.sum[row], totalScale, &sum[row], partScale, 1);
    }
  }

  const AttentionShape& shape_;
  const AttentionRows& rows_;
  const AttentionKernels& kernels_;
};

}  // namespace

const AttentionKernels& attentionKernels(Isa isa) {
#ifdef HELS_X86
  if (isa >= Isa::kAvx512) return avx512AttentionKernels();
  if (isa == Isa::kAvx2) return avx2AttentionKernels();
#else
  (void)isa;
#endif
  return portableAttentionKernels();
}

size_t attentionWorkspaceFloats(int64_t headDim) {
  return static_cast<size_t>(kAttentionRowsMax * (kAttentionChunkTokens + headDim));
}

ChunkRange visibleChunks(const AttentionShape& shape, int64_t first, int64_t last) {
  return {firstVisible(shape, first) / kAttentionChunkTokens, last / kAttentionChunkTokens + 1};
}

TileRange visibleTiles(const AttentionShape& shape, int64_t first, int64_t last, ChunkRange chunks) {
  return {std::max(firstVisible(shape, first) / kAttentionTileTokens, chunks.begin * kAttentionTiles),
          std::min(last / kAttentionTileTokens + 1, chunks.end * kAttentionTiles)};
}

void attend(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, float* workspace, Isa isa,
            const KvWalk& next) {
  const Attention attention(shape, rows, attentionKernels(isa));
  AttentionSums sums;
  attention.begin(sums);
  attention.attend(kv, visibleChunks(shape, rows.positions[0], rows.positions[rows.count - 1]), sums, workspace, next);
  attention.finish(sums);
}

void beginAttention(const AttentionShape& shape, const AttentionRows& rows, AttentionSums& sums) {
  Attention(shape, rows, portableAttentionKernels()).begin(sums);
}

void attendChunks(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, ChunkRange chunks,
                  AttentionSums& sums, float* workspace, Isa isa, const KvWalk& next) {
  Attention(shape, rows, attentionKernels(isa)).attend(kv, chunks, sums, workspace, next);
}

void mergeParts(const AttentionShape& shape, const AttentionRows& rows, int64_t chunk, const AttentionParts& parts,
                AttentionSums& sums, Isa isa) {
  Attention(shape, rows, attentionKernels(isa)).mergeChunk(chunk, parts, sums);
}

void finishAttention(const AttentionShape& shape, const AttentionRows& rows, const AttentionSums& sums, Isa isa) {
  Attention(shape, rows, attentionKernels(isa)).finish(sums);
}

void attendPart(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, int64_t chunk, float* parts,
                float* workspace, Isa isa, const KvWalk& next) {
  Attention(shape, rows, attentionKernels(isa)).attendPart(kv, chunk, parts, workspace, next);
}

}  // namespace hels
