#include "engine/cuda/step_metadata.h"

#include <algorithm>

#include "base/cuda/check.h"
#include "base/error.h"
#include "kernels/cpu/gemm.h"

namespace hels::cuda {
namespace {

constexpr size_t kAlignment = 16;

}  // namespace

StepShape shapeOf(const TokenBatch& tokens, const std::vector<LogitRow>& rows, int64_t kvBlockTokens) {
  StepShape shape;
  shape.sequences = static_cast<int64_t>(tokens.sequences.size());
  shape.tokens = tokens.tokens();
  shape.logitRows = static_cast<int64_t>(rows.size());
  for (const BatchSequence& sequence : tokens.sequences) {
    shape.tokensPerSequenceMax = std::max(shape.tokensPerSequenceMax, sequence.tokens);
    shape.contextMax = std::max(shape.contextMax, sequence.startPosition + sequence.tokens);
  }
  shape.tableBlocks = divCeil(shape.contextMax, kvBlockTokens);
  return shape;
}

StepMetadata::Layout StepMetadata::layoutOf(const StepShape& shape) {
  size_t offset = 0;
  const auto take = [&](int64_t count, size_t elementBytes) {
    const size_t begin = offset;
    offset += (static_cast<size_t>(count) * elementBytes + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  Layout layout{};
  layout.requests = take(shape.logitRows, sizeof(SampleRequest));
  layout.tokenIds = take(shape.tokens, sizeof(int32_t));
  layout.positions = take(shape.tokens, sizeof(int32_t));
  layout.sequenceOf = take(shape.tokens, sizeof(int32_t));
  layout.firstToken = take(shape.sequences, sizeof(int32_t));
  layout.tokenCount = take(shape.sequences, sizeof(int32_t));
  layout.startPosition = take(shape.sequences, sizeof(int32_t));
  layout.logitTokens = take(shape.logitRows, sizeof(int32_t));
  layout.blockTables = take(shape.sequences * shape.tableBlocks, sizeof(int32_t));
  layout.sizeBytes = offset;
  return layout;
}

size_t StepMetadata::measure(const StepShape& shape) { return layoutOf(shape).sizeBytes; }

StepMetadata::StepMetadata(const StepShape& largest, int64_t deviceBlocks, std::byte* device)
    : capacity_(measure(largest)), deviceBlocks_(deviceBlocks), host_(capacity_, "a step's tables"), device_(device) {}

void StepMetadata::write(const StepBatch& batch, const TokenBatch& tokens, const std::vector<LogitRow>& rows,
                         const StepShape& shape) {
  shape_ = shape;
  layout_ = layoutOf(shape);
  require(
      layout_.sizeBytes <= capacity_ && static_cast<int64_t>(batch.sequences.size()) <= shape.sequences &&
          tokens.tokens() <= shape.tokens && static_cast<int64_t>(rows.size()) <= shape.logitRows,
      ErrorCode::kInternal,
      "a step's tables need " + std::to_string(layout_.sizeBytes) + " bytes; there are " + std::to_string(capacity_));
  writeTokens(batch, tokens);
  writeSequences(batch, tokens);
  writeRows(batch, tokens, rows);
}

void StepMetadata::writeTokens(const StepBatch& batch, const TokenBatch& tokens) {
  auto* ids = hostAt<int32_t>(layout_.tokenIds);
  auto* positions = hostAt<int32_t>(layout_.positions);
  auto* sequenceOf = hostAt<int32_t>(layout_.sequenceOf);
  std::fill_n(ids, shape_.tokens, 0);
  std::fill_n(positions, shape_.tokens, 0);
  std::fill_n(sequenceOf, shape_.tokens, -1);
  for (size_t i = 0; i < tokens.tokenIds.size(); ++i) {
    const SequenceStep& sequence = batch.sequences[static_cast<size_t>(tokens.sequenceOf[i])];
    ids[i] = sequence.takeSampled ? -(sequence.slot + 1) : tokens.tokenIds[i];
    positions[i] = static_cast<int32_t>(tokens.positions[i]);
    sequenceOf[i] = tokens.sequenceOf[i];
  }
}

void StepMetadata::writeSequences(const StepBatch& batch, const TokenBatch& tokens) {
  auto* firstToken = hostAt<int32_t>(layout_.firstToken);
  auto* tokenCount = hostAt<int32_t>(layout_.tokenCount);
  auto* startPosition = hostAt<int32_t>(layout_.startPosition);
  auto* blockTables = hostAt<int32_t>(layout_.blockTables);
  std::fill_n(firstToken, shape_.sequences, 0);
  std::fill_n(tokenCount, shape_.sequences, 0);
  std::fill_n(startPosition, shape_.sequences, 0);
  for (size_t i = 0; i < tokens.sequences.size(); ++i) {
    const BatchSequence& sequence = tokens.sequences[i];
    firstToken[i] = static_cast<int32_t>(sequence.firstToken);
    tokenCount[i] = static_cast<int32_t>(sequence.tokens);
    startPosition[i] = static_cast<int32_t>(sequence.startPosition);
    const std::vector<int32_t>& table = batch.sequences[i].blockTable;
    const auto blocks = std::min(static_cast<int64_t>(table.size()), shape_.tableBlocks);
    int32_t* target = blockTables + static_cast<int64_t>(i) * shape_.tableBlocks;
    std::transform(table.begin(), table.begin() + blocks, target,
                   [&](int32_t address) { return address < deviceBlocks_ ? address : -1; });
    std::fill_n(target + blocks, shape_.tableBlocks - blocks, 0);  // never read: beyond the sequence's positions
  }
}

void StepMetadata::writeRows(const StepBatch& batch, const TokenBatch& tokens, const std::vector<LogitRow>& rows) {
  auto* logitTokens = hostAt<int32_t>(layout_.logitTokens);
  auto* requests = hostAt<SampleRequest>(layout_.requests);
  for (int64_t i = 0; i < shape_.logitRows; ++i) {
    requests[i] = SampleRequest{};
    // Padding takes the rows of padding tokens: each row belongs to another token.
    logitTokens[i] = static_cast<int32_t>(std::min(i, shape_.tokens - 1));
    if (i >= static_cast<int64_t>(rows.size())) continue;
    const LogitRow& row = rows[static_cast<size_t>(i)];
    logitTokens[i] = static_cast<int32_t>(row.token);
    if (!row.samples) continue;
    const SequenceStep& sequence = batch.sequences[static_cast<size_t>(row.sequence)];
    requests[i].seed = sequence.sampling->seed;
    requests[i].position = tokens.positions[static_cast<size_t>(row.token)] + 1;
    requests[i].temperature = sequence.sampling->temperature;
    requests[i].slot = sequence.slot;
  }
}

void StepMetadata::upload(cudaStream_t stream) const {
  check(cudaMemcpyAsync(device_, host_.data(), layout_.sizeBytes, cudaMemcpyHostToDevice, stream),
        "copy of a step's tables");
}

DeviceBatch StepMetadata::deviceBatch() const {
  DeviceBatch batch;
  batch.sequences = shape_.sequences;
  batch.tokens = shape_.tokens;
  batch.tokensPerSequenceMax = shape_.tokensPerSequenceMax;
  batch.contextMax = shape_.contextMax;
  batch.firstToken = deviceAt<int32_t>(layout_.firstToken);
  batch.tokenCount = deviceAt<int32_t>(layout_.tokenCount);
  batch.startPosition = deviceAt<int32_t>(layout_.startPosition);
  batch.blockTables = deviceAt<int32_t>(layout_.blockTables);
  batch.blockTableStride = shape_.tableBlocks;
  batch.sequenceOf = deviceAt<int32_t>(layout_.sequenceOf);
  batch.positions = deviceAt<int32_t>(layout_.positions);
  return batch;
}

}  // namespace hels::cuda
