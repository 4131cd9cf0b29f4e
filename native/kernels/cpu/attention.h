// Attention of query rows over a paged KV cache. KV is taken in chunks of 64 positions anchored at absolute positions:
// chunk c is [64 c, 64 c + 64). Per row and chunk: scores (a chain over headDim per position), their maximum m, p =
// exp(s - m), l = the sum of p (16 lanes by position mod 16, then a fixed tree), o = a chain over the visible positions
// of p * v. Chunks are merged in ascending order. Each row sees only its own position and window, so prefill and
// decode, any batch, any tiling of rows and any placement of blocks give the same bits. The (m, l, o) of a chunk are
// what a remote holder of KV sends.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kv_walk.h"

namespace hels {

inline constexpr int kAttentionRowsMax = 8;

/// Query rows of one sequence and head group, in ascending order of position.
struct AttentionRows {
  int count = 0;  // <= kAttentionRowsMax
  const float* queries[kAttentionRowsMax] = {};
  int64_t positions[kAttentionRowsMax] = {};
  float* outputs[kAttentionRowsMax] = {};  // (headDim) each
};

struct AttentionShape {
  int64_t headDim = 0;
  int64_t window = 0;  // positions a row sees, itself included; 0 = all
  float scale = 1.0F;
};

/// Chunks [begin, end).
struct ChunkRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// What rows at positions [first, last] see, all together.
ChunkRange visibleChunks(const AttentionShape& shape, int64_t first, int64_t last);
/// The same in tiles; only those in `chunks`.
TileRange visibleTiles(const AttentionShape& shape, int64_t first, int64_t last, ChunkRange chunks);

/// Floats of scratch that one call needs.
size_t attentionWorkspaceFloats(int64_t headDim);

// Every call may be told what the thread's next one reads: towards its end it asks for that.

/// outputs[i] = softmax(scale * queries[i] K^T, masked) V. Reads only positions the rows see (and tiles they lie in).
void attend(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, float* workspace, Isa isa,
            const KvWalk& next = {});

// The same in pieces, for rows some of whose KV lies elsewhere: begin, then attendChunks and mergeParts in ascending
// order of chunks, then finish. The bits are those of attend().

/// The chunks merged so far: by row their maximum and sum; the rows' outputs hold their o.
struct AttentionSums {
  float maximum[kAttentionRowsMax] = {};
  float sum[kAttentionRowsMax] = {};
};

/// Unmerged parts of one chunk: (rows, headDim + 2) of o, m and l. Row i of the call is row firstRow + i of them; rows
/// that do not see the chunk need none.
struct AttentionParts {
  const float* data = nullptr;
  int64_t firstRow = 0;
};

inline int64_t attentionPartFloats(int64_t headDim) { return headDim + 2; }

void beginAttention(const AttentionShape& shape, const AttentionRows& rows, AttentionSums& sums);
/// Merges those of `chunks` that a row sees.
void attendChunks(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, ChunkRange chunks,
                  AttentionSums& sums, float* workspace, Isa isa, const KvWalk& next = {});
void mergeParts(const AttentionShape& shape, const AttentionRows& rows, int64_t chunk, const AttentionParts& parts,
                AttentionSums& sums, Isa isa);
void finishAttention(const AttentionShape& shape, const AttentionRows& rows, const AttentionSums& sums, Isa isa);

/// What the holder of a chunk does: parts(rows.count, headDim + 2) of rows that all see it. Their outputs are not used.
void attendPart(const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows, int64_t chunk, float* parts,
                float* workspace, Isa isa, const KvWalk& next = {});

}  // namespace hels
