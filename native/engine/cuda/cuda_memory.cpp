#include "engine/cuda/cuda_memory.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/cuda/check.h"
#include "base/error.h"
#include "base/host_memory.h"
#include "engine/cpu_engine.h"
#include "engine/cuda/cuda_forward.h"
#include "engine/cuda/cuda_weights.h"
#include "engine/scratch.h"
#include "kv/kv_store.h"

namespace hels::cuda {
namespace {

std::string gibibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f GiB", static_cast<double>(bytes) / static_cast<double>(size_t{1} << 30));
  return text;
}

/// Granules of row-parallel products begin at whole 16 bytes.
void requireGranule(const char* field, int64_t value, int64_t granules, const ModelSpec& model) {
  const bool narrow = model.weightType != DataType::kF32;
  require(!narrow || granules == 1 || paddedDepth(model.weightType, value) == value, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + std::to_string(value) + "; on a GPU it must be a multiple of 8 for " +
              dataTypeName(model.weightType) + " weights");
}

}  // namespace

void validateCudaOptions(const ModelSpec& model, const EngineOptions& options) {
  require(model.quantization == Quantization::kNone, ErrorCode::kShapeInvalid,
          std::string("quantization is ") + quantizationName(model.quantization) + "; device " + options.device +
              " takes weights in f32, bf16 and f16 only");
  require(options.speed == 1.0, ErrorCode::kShapeInvalid,
          "speed is " + std::to_string(options.speed) + "; device " + options.device + " cannot emulate a slower one");
  require(options.kvLoans.empty() || options.kvBlockTokens % kAttentionChunkTokens == 0, ErrorCode::kShapeInvalid,
          "kvBlockTokens is " + std::to_string(options.kvBlockTokens) + "; with kvLoans it must be a multiple of " +
              std::to_string(kAttentionChunkTokens) + " on device " + options.device);
  require(options.kvLoans.empty() || options.kvParkedBlocks == 0, ErrorCode::kShapeInvalid,
          "kvParkedBlocks is " + std::to_string(options.kvParkedBlocks) + "; with kvLoans it must be 0 on device " +
              options.device);
  requireGranule("queryHeadsPerGroup * headDim", model.queryHeadsPerGroup * model.headDim, model.headGroups, model);
  requireGranule("ffnGranule", model.ffnGranule, divCeil(model.ffnColumns, model.ffnGranule), model);
  DeviceKv kv;
  kv.type = model.weightType;
  kv.groups = model.headGroups;
  kv.blocks = options.kvBlocks;
  kv.blockTokens = options.kvBlockTokens;
  kv.headDim = model.headDim;
  validateAttention(attentionModel(model, 0), kv);
}

KvShape cudaKvShape(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, int64_t layers) {
  return {model.weightType,        layers,
          shard.headGroups.size(), model.headDim,
          options.kvBlockTokens,   options.kvDeviceBlocks.value_or(options.kvBlocks)};
}

StepShape largestStep(const ModelSpec& model, const EngineOptions& options) {
  StepShape shape;
  shape.tokens = options.stepTokensMax;
  shape.sequences = std::min(options.sequencesMax, options.stepTokensMax);
  shape.tokensPerSequenceMax = options.stepTokensMax;
  shape.contextMax = positionsMax(model, options);
  shape.logitRows = options.stepTokensMax;
  shape.tableBlocks = divCeil(shape.contextMax, options.kvBlockTokens);
  return shape;
}

CudaScratchSizes cudaScratchSizes(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                                  int64_t layers) {
  const StepShape largest = largestStep(model, options);
  CudaScratchSizes sizes;
  sizes.tokens = largest.tokens;
  sizes.logitRows = std::min(largest.tokens, std::max(kLogitRowsMax, options.sequencesMax));
  sizes.layers = layers;
  sizes.metadataBytes = StepMetadata::measure(largest);
  sizes.ropePositions = largest.contextMax;
  if (!shard.headGroups.empty()) {
    const CudaKv kv{cudaKvShape(model, shard, options, layers), nullptr};
    sizes.attentionWorkspaceBytes =
        attentionWorkspaceBytes(attentionModel(model, 0), kv.layer(0), largest.sequences, largest.contextMax);
  }
  return sizes;
}

CudaMemory measureCudaMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                             int64_t layers) {
  const KvHomes homes = kvHomesOf(model, shard, options);
  const KvBytes kv = kvBytesOf(homes, cudaKvShape(model, shard, options, layers));  // first: what follows relies on it
  Arena scratch;
  layoutCudaScratch(model, shard, options, cudaScratchSizes(model, shard, options, layers), scratch);
  return {CudaWeights::measure(model, shard, layers), kv.device, scratch.usedBytes(), kv.host, kv.loans,
          remoteBytesOf(model, homes, options)};
}

void requireCudaMemory(const CudaMemory& memory, const CudaMemory& held, const ShardSpec& shard,
                       const EngineOptions& options) {
  size_t freeBytes = 0;
  size_t deviceBytes = 0;
  check(cudaMemGetInfo(&freeBytes, &deviceBytes), "free memory of the device");
  const std::string parts = "rank " + std::to_string(shard.rank) + " needs " + gibibytes(memory.totalBytes()) + " of " +
                            options.device + " (weights " + gibibytes(memory.weightBytes) + ", KV " +
                            gibibytes(memory.kvBytes) + ", KV of other ranks " + gibibytes(memory.kvLoanBytes) +
                            ", scratch " + gibibytes(memory.scratchBytes + memory.remote.device) + "), ";
  require(options.memoryBytes == 0 || memory.totalBytes() <= options.memoryBytes, ErrorCode::kMemoryExceeded,
          parts + "its memory budget is " + gibibytes(options.memoryBytes) +
              "; give it fewer head groups, FFN columns or KV blocks, or raise the budget");
  require(memory.totalBytes() <= freeBytes + held.totalBytes(), ErrorCode::kMemoryExceeded,
          parts + "of whose " + gibibytes(deviceBytes) + " are " + gibibytes(freeBytes + held.totalBytes()) +
              " free; give it fewer head groups, FFN columns or KV blocks, or end what else runs there");
  if (memory.hostBytes() == held.hostBytes()) return;
  const size_t hostBytes = availableHostBytes();
  require(memory.hostBytes() < hostBytes, ErrorCode::kMemoryExceeded,
          "rank " + std::to_string(shard.rank) + " needs " + gibibytes(memory.hostBytes()) +
              " of page-locked host memory for parked and lent KV; the host has " + gibibytes(hostBytes) +
              " available; park or lend fewer KV blocks");
}

}  // namespace hels::cuda
