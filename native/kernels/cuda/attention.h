// Attention of query rows over a paged KV cache on a GPU. KV is taken in chunks of 256 positions anchored at absolute
// positions, and chunks in tiles of 64. Per row, each tile is attended to by itself, by tensor-core products in f32
// with the weights rounded to the cache's type; a chunk is the fold of its tiles and the output that of the chunks,
// both in ascending order by one rule (attention_parts.h). So a warp can take a tile or a whole chunk: decode, prefill
// and remote parts share that arithmetic, and a row's bits depend on its query, its position, the window and the KV it
// sees, and not on the batch, the chunking of the prefill, the placement of blocks or the split over thread blocks and
// warps. KV in f32 is attended in plain fused multiply-adds, likewise.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

/// Positions of a chunk of KV: what is split over blocks, merged in ascending order, and what a remote holder sends.
inline constexpr int64_t kAttentionChunkTokens = 256;
inline constexpr int64_t kAttentionHeadDimMax = 256;

/// KV of one layer in device memory: keys and values each (groups, blocks, blockTokens, headDim), of `type`, 16-byte
/// aligned. Slots of positions not yet written may hold anything, NaN too.
struct DeviceKv {
  DataType type = DataType::kBf16;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  int64_t groups = 0;
  int64_t blocks = 0;
  int64_t blockTokens = 0;
  int64_t headDim = 0;
};

/// The sequences of a step. Arrays are in device memory, so that a captured graph can be replayed with others; sizes
/// are what the launch is made for: at least what the arrays say. A sequence with tokenCount 0 is skipped, and so is a
/// token with sequenceOf -1: both pad a graph's batch.
struct DeviceBatch {
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t tokensPerSequenceMax = 0;
  int64_t contextMax = 0;                  // the largest position + 1
  const int32_t* firstToken = nullptr;     // (sequences)
  const int32_t* tokenCount = nullptr;     // (sequences)
  const int32_t* startPosition = nullptr;  // (sequences): position of the first token
  const int32_t* blockTables = nullptr;    // (sequences, blockTableStride)
  int64_t blockTableStride = 0;
  const int32_t* sequenceOf = nullptr;  // (tokens)
  const int32_t* positions = nullptr;   // (tokens)
};

struct AttentionModel {
  int64_t queryHeadsPerGroup = 1;
  int64_t window = 0;  // positions a row sees, itself included; 0 = all
  float scale = 1.0F;  // above 0
};

/// Throws kShapeInvalid naming the field, its value and what is allowed: headDim a multiple of 16 up to 256,
/// blockTokens 16, 32 or a multiple of 64. For the engine's start; the calls below rely on it.
void validateAttention(const AttentionModel& model, const DeviceKv& kv);

/// Throws kShapeInvalid when a block of the current device has too little shared memory for heads of this size. For the
/// engine's start, as well.
void requireAttentionFits(DataType type, int64_t headDim);

/// Bytes of the workspace of attend() for steps of up to these sizes. Bounded: what does not fit is done in turns.
size_t attentionWorkspaceBytes(const AttentionModel& model, const DeviceKv& kv, int64_t sequences, int64_t contextMax);

/// output(tokens, outputStride) = softmax(scale * queries K^T, masked) V: queries(tokens, queryStride) and output both
/// in kv.type, columns (groups, queryHeadsPerGroup, headDim), 16-byte aligned, strides multiples of 8 (f32: of 4).
/// The KV of the step's own tokens is in the cache already. `workspace` has attentionWorkspaceBytes() for sizes not
/// below those of `batch`.
void attend(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const void* queries,
            int64_t queryStride, void* output, int64_t outputStride, std::byte* workspace, cudaStream_t stream);

/// Unmerged results, in f32 in device memory: maxima and sums (tokens, queryHeads, slots), outputs (tokens, queryHeads,
/// slots, headDim), queryHeads = groups * queryHeadsPerGroup. Slot s of a row is chunk s after the first chunk the row
/// sees (all that it sees when window is 0). A maximum is that of scale * log2(e) * q k; sums and outputs are relative
/// to 2^maximum.
struct AttentionParts {
  float* maxima = nullptr;
  float* sums = nullptr;
  float* outputs = nullptr;
  int64_t slots = 0;
};

/// Slots that rows at positions below contextMax need.
int64_t attentionSlots(int64_t window, int64_t contextMax);

/// Computes the parts of the chunks whose KV is here: those with chunkHere(sequences, chunkStride)[absolute chunk] not
/// 0; null means all. Other slots are left alone, and the block table is not read there. parts.slots >=
/// attentionSlots(). For remote attention: the owner and each holder of chunks call it with the same queries and
/// positions.
void attendParts(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const void* queries,
                 int64_t queryStride, const uint8_t* chunkHere, int64_t chunkStride, const AttentionParts& parts,
                 cudaStream_t stream);

/// output as attend() has it, to the bit, from parts of which every chunk that a row sees is filled in. Of `kv` only
/// type, groups and headDim are used, of `batch` sequenceOf and positions.
void mergeParts(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const AttentionParts& parts,
                void* output, int64_t outputStride, cudaStream_t stream);

}  // namespace hels::cuda
