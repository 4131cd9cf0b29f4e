// Chooses the kernels of attention. Every choice gives the same bits (attention_parts.h).
#include <algorithm>
#include <numbers>
#include <string>

#include "base/error.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_parts.h"

namespace hels::cuda {
namespace {

/// Parts of more sequences than fit are computed in turns: each has work for the whole device.
constexpr int64_t kWorkspaceFloats = int64_t{32} << 20;
/// What a dimension of a grid takes.
constexpr int64_t kSequencesMax = 65535;

AttentionArguments argumentsOf(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch) {
  AttentionArguments a;
  a.keys = kv.keys;
  a.values = kv.values;
  a.groupElements = kv.blocks * kv.blockTokens * kv.headDim;
  a.groups = static_cast<int>(kv.groups);
  a.blockTokens = static_cast<int>(kv.blockTokens);
  a.headDim = static_cast<int>(kv.headDim);
  a.queryHeadsPerGroup = static_cast<int>(model.queryHeadsPerGroup);
  a.window = static_cast<int>(model.window);
  a.scaleLog2 = static_cast<float>(static_cast<double>(model.scale) * std::numbers::log2e);
  a.firstToken = batch.firstToken;
  a.tokenCount = batch.tokenCount;
  a.startPosition = batch.startPosition;
  a.blockTables = batch.blockTables;
  a.blockTableStride = batch.blockTableStride;
  a.sequenceOf = batch.sequenceOf;
  a.positions = batch.positions;
  return a;
}

int64_t partFloatsPerRow(int64_t headDim, int64_t slots) { return slots * (headDim + 2); }

/// Parts in the workspace: outputs first, which want the alignment.
AttentionParts partsIn(std::byte* workspace, int64_t rows, int64_t headDim, int64_t slots) {
  auto* outputs = reinterpret_cast<float*>(workspace);
  float* maxima = outputs + rows * slots * headDim;
  return {maxima, maxima + rows * slots, outputs, slots};
}

bool nothingToDo(const DeviceKv& kv, const DeviceBatch& batch) {
  return kv.groups == 0 || batch.sequences == 0 || batch.tokens == 0 || batch.tokensPerSequenceMax == 0;
}

/// Sequences of one token, as many at once as the workspace has room for.
void decode(const DeviceKv& kv, AttentionArguments a, const DeviceBatch& batch, int64_t slots, std::byte* workspace,
            cudaStream_t stream) {
  const DecodePlan plan = planDecode(a, batch.sequences, slots, true);
  a.kvIsOlder = batch.tokensPerSequenceMax == 1;
  const int64_t floats = a.queryHeads() * partFloatsPerRow(kv.headDim, slots);
  const int64_t atOnce = plan.merges ? kSequencesMax : std::clamp<int64_t>(kWorkspaceFloats / floats, 1, kSequencesMax);
  for (int64_t first = 0; first < batch.sequences; first += atOnce) {
    const int64_t sequences = std::min(atOnce, batch.sequences - first);
    a.firstSequence = static_cast<int>(first);
    if (!plan.merges) {
      a.partsBySequence = true;
      a.parts = partsIn(workspace, sequences * a.queryHeads(), kv.headDim, slots);
    }
    attendDecode(kv.type, a, sequences, slots, plan, stream);
    if (!plan.merges) mergeSlots(kv.type, a, sequences, stream);
  }
}

/// Calls run(arguments, sequences) for as many sequences as a grid takes.
template <typename Run>
void inTurns(AttentionArguments a, int64_t sequences, const Run& run) {
  for (int64_t first = 0; first < sequences; first += kSequencesMax) {
    a.firstSequence = static_cast<int>(first);
    run(a, std::min(kSequencesMax, sequences - first));
  }
}

}  // namespace

void validateAttention(const AttentionModel& model, const DeviceKv& kv) {
  const auto refuse = [](bool good, const std::string& field, int64_t value, const std::string& allowed) {
    require(good, ErrorCode::kShapeInvalid, field + " is " + std::to_string(value) + "; allowed are " + allowed);
  };
  refuse(kv.headDim > 0 && kv.headDim % 16 == 0 && kv.headDim <= kAttentionHeadDimMax, "headDim", kv.headDim,
         "multiples of 16 up to " + std::to_string(kAttentionHeadDimMax) + " on CUDA");
  refuse(kv.blockTokens == 16 || kv.blockTokens == 32 || (kv.blockTokens > 0 && kv.blockTokens % kTileTokens == 0),
         "kvBlockTokens", kv.blockTokens, "16, 32 and multiples of 64");
  refuse(model.queryHeadsPerGroup > 0, "queryHeadsPerGroup", model.queryHeadsPerGroup, "1 and more");
  refuse(model.window >= 0, "window", model.window, "0 (all positions) and more");
  require(model.scale > 0.0F, ErrorCode::kShapeInvalid,
          "scale is " + std::to_string(model.scale) + "; allowed is what is above 0");
}

void requireAttentionFits(DataType type, int64_t headDim) {
  if (type == DataType::kF32) return;
  const size_t bytes = std::max(decodeBytesMin(headDim), prefillBytesMin(headDim));
  require(bytes <= sharedBytesMax(), ErrorCode::kShapeInvalid,
          "headDim is " + std::to_string(headDim) + "; its attention takes " + std::to_string(bytes) +
              " bytes of shared memory in a block, and this device has " + std::to_string(sharedBytesMax()) +
              "; leave the device out, or give it no heads");
}

int64_t attentionSlots(int64_t window, int64_t contextMax) {
  const int64_t all = (contextMax + kAttentionChunkTokens - 1) / kAttentionChunkTokens;
  if (window == 0) return all;
  // `window` positions that begin anywhere in a chunk.
  return std::min(all, (window + kAttentionChunkTokens - 2) / kAttentionChunkTokens + 1);
}

size_t attentionWorkspaceBytes(const AttentionModel& model, const DeviceKv& kv, int64_t sequences, int64_t contextMax) {
  if (kv.type == DataType::kF32) return 0;
  const int64_t floats =
      kv.groups * model.queryHeadsPerGroup * partFloatsPerRow(kv.headDim, attentionSlots(model.window, contextMax));
  return static_cast<size_t>(std::min(sequences * floats, std::max(kWorkspaceFloats, floats))) * sizeof(float);
}

void attend(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const void* queries,
            int64_t queryStride, void* output, int64_t outputStride, std::byte* workspace, cudaStream_t stream) {
  if (nothingToDo(kv, batch)) return;
  AttentionArguments a = argumentsOf(model, kv, batch);
  a.queries = static_cast<const std::byte*>(queries);
  a.queryStride = queryStride;
  a.output = static_cast<std::byte*>(output);
  a.outputStride = outputStride;
  const int64_t tokensMax = batch.tokensPerSequenceMax;
  if (kv.type == DataType::kF32) {
    return inTurns(a, batch.sequences, [&](const AttentionArguments& turn, int64_t sequences) {
      attendF32(turn, sequences, tokensMax, stream);
    });
  }
  // Single tokens beside prompts are done by the kernel that splits their KV; a lone sequence by one kernel.
  const bool lonePrompt = tokensMax > 1 && batch.sequences == 1;
  if (!lonePrompt) decode(kv, a, batch, attentionSlots(model.window, batch.contextMax), workspace, stream);
  if (tokensMax == 1) return;
  a.prefillTokensMin = lonePrompt ? 1 : 2;
  inTurns(a, batch.sequences, [&](const AttentionArguments& turn, int64_t sequences) {
    attendPrefill(kv.type, turn, sequences, tokensMax, stream);
  });
}

void attendParts(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const void* queries,
                 int64_t queryStride, const uint8_t* chunkHere, int64_t chunkStride, const AttentionParts& parts,
                 cudaStream_t stream) {
  if (nothingToDo(kv, batch)) return;
  AttentionArguments a = argumentsOf(model, kv, batch);
  a.queries = static_cast<const std::byte*>(queries);
  a.queryStride = queryStride;
  a.parts = parts;
  a.chunkHere = chunkHere;
  a.chunkStride = chunkStride;
  const int64_t tokensMax = batch.tokensPerSequenceMax;
  const int64_t slots = attentionSlots(model.window, batch.contextMax);
  inTurns(a, batch.sequences, [&](const AttentionArguments& turn, int64_t sequences) {
    if (kv.type == DataType::kF32) return attendF32(turn, sequences, tokensMax, stream);
    attendDecode(kv.type, turn, sequences, slots, planDecode(turn, sequences, slots, false), stream);
    if (tokensMax > 1) attendPrefill(kv.type, turn, sequences, tokensMax, stream);
  });
}

void mergeParts(const AttentionModel& model, const DeviceKv& kv, const DeviceBatch& batch, const AttentionParts& parts,
                void* output, int64_t outputStride, cudaStream_t stream) {
  if (nothingToDo(kv, batch)) return;
  AttentionArguments a = argumentsOf(model, kv, batch);
  a.output = static_cast<std::byte*>(output);
  a.outputStride = outputStride;
  a.parts = parts;
  mergeSlots(kv.type, a, batch.tokens, stream);
}

}  // namespace hels::cuda
