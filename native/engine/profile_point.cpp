#include "engine/profile_point.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/gemm.h"

namespace hels {
namespace {

constexpr int64_t kEmbeddingRows = 256;

/// Of all sequences together: the tables of their blocks, and that of the positions, are small.
constexpr int64_t kPositionsMax = int64_t{1} << 24;

void requirePoint(bool good, const char* field, int64_t value, const std::string& allowed) {
  require(good, ErrorCode::kShapeInvalid,
          "profile point: " + std::string(field) + " is " + std::to_string(value) + "; allowed is " + allowed);
}

void requireShare(const char* field, int64_t value, int64_t whole) {
  requirePoint(value >= 0 && value <= whole, field, value, "0 to " + std::to_string(whole));
}

/// Start position of each sequence such that its tokens attend to `context` positions in sum.
int64_t startOf(int64_t tokens, int64_t context) {
  return std::max<int64_t>(0, (context - tokens * (tokens + 1) / 2) / tokens);
}

void requirePositions(const ModelSpec& model, const char* field, int64_t tokens, int64_t sequences, int64_t context) {
  const int64_t each = tokens / sequences;
  const int64_t positions = startOf(each, context / sequences) + each;
  requirePoint(positions <= model.maxPositions, field, context,
               "such that no sequence exceeds " + std::to_string(model.maxPositions) + " positions");
  requirePoint(positions <= kPositionsMax / sequences, field, context,
               "such that all sequences together have at most " + std::to_string(kPositionsMax) + " positions");
}

/// Sequences write into blocks of their own; what they only read is taken from the rest of the pool in turn.
PointBatch batchOf(const ProfilePoint& point, int64_t blockTokens, int64_t readBlocksMax) {
  const int64_t sequences = point.prefill ? 1 : point.tokens;
  const int64_t tokens = point.tokens / sequences;
  const int64_t start = startOf(tokens, point.contextTokens / sequences);
  const int64_t firstWritten = start / blockTokens;
  const int64_t tableBlocks = divCeil(start + tokens, blockTokens);
  const int64_t written = tableBlocks - firstWritten;
  const int64_t readBlocks = std::clamp<int64_t>(firstWritten * sequences, 1, std::max<int64_t>(1, readBlocksMax));
  PointBatch batch;
  batch.blocks = written * sequences + readBlocks;
  int64_t nextRead = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    SequenceStep sequence;
    sequence.slot = static_cast<int32_t>(i);
    sequence.startPosition = start;
    sequence.tokens.assign(static_cast<size_t>(tokens), 0);
    for (int64_t block = 0; block < tableBlocks; ++block) {
      const int64_t id =
          block < firstWritten ? written * sequences + nextRead++ % readBlocks : i * written + block - firstWritten;
      sequence.blockTable.push_back(static_cast<int32_t>(id));
    }
    batch.step.sequences.push_back(std::move(sequence));
  }
  return batch;
}

/// The batch of a point; a mixed point's chunk follows the decode sequences and has blocks of its own.
PointBatch batchOfPoint(const ProfilePoint& point, int64_t blockTokens, int64_t readBlocksMax) {
  PointBatch batch = batchOf(point, blockTokens, readBlocksMax);
  if (point.chunkTokens == 0) return batch;
  ProfilePoint chunk = point;
  chunk.prefill = true;
  chunk.tokens = point.chunkTokens;
  chunk.contextTokens = point.chunkContextTokens;
  PointBatch more = batchOf(chunk, blockTokens, readBlocksMax);
  SequenceStep& sequence = more.step.sequences.front();
  sequence.slot = static_cast<int32_t>(batch.step.sequences.size());
  for (int32_t& block : sequence.blockTable) block += static_cast<int32_t>(batch.blocks);
  batch.step.sequences.push_back(std::move(sequence));
  batch.blocks += more.blocks;
  return batch;
}

}  // namespace

void validatePoint(const ModelSpec& model, const ProfilePoint& point) {
  requireShare("headGroups", point.headGroups, model.headGroups);
  requireShare("ffnColumns", point.ffnColumns, model.ffnColumns);
  requireShare("vocabRows", point.vocabRows, model.vocabRows);
  requirePoint(point.tokens >= 1 && point.tokens <= int64_t{1} << 16, "tokens", point.tokens, "1 to 65536");
  requirePoint(point.chunkTokens == 0 || !point.prefill, "chunkTokens", point.chunkTokens, "0 in a prefill point");
  requirePoint(point.chunkTokens >= 0 && point.chunkTokens <= int64_t{1} << 16, "chunkTokens", point.chunkTokens,
               "0 to 65536");
  requirePoint(point.contextTokens >= 1, "contextTokens", point.contextTokens, "1 and above");
  requirePositions(model, "contextTokens", point.tokens, point.prefill ? 1 : point.tokens, point.contextTokens);
  if (point.chunkTokens == 0) return;
  requirePositions(model, "chunkContextTokens", point.chunkTokens, 1, point.chunkContextTokens);
}

PointSetup makePointSetup(const ModelSpec& wholeModel, const EngineOptions& options, const ProfilePoint& point,
                          size_t bytesMaxWanted,
                          const std::function<size_t(const ModelSpec&, const ShardSpec&)>& layerBytes) {
  const size_t bytesMax =
      options.memoryBytes == 0 ? bytesMaxWanted : std::min<size_t>(bytesMaxWanted, options.memoryBytes / 4);
  PointSetup setup{
      wholeModel, {0, 1, {0, point.headGroups}, {0, point.ffnColumns}, {0, point.vocabRows}}, options, {}, 1, {}};
  ModelSpec& model = setup.model;
  model.vocabRows = std::min(wholeModel.vocabRows, kEmbeddingRows);
  const size_t headRowBytes = static_cast<size_t>(model.embeddingSize) * bytesOf(model.weightType);
  setup.shard.vocabRows.end =
      std::min<int64_t>(point.vocabRows, std::max<int64_t>(1, static_cast<int64_t>(bytesMax / headRowBytes)));

  setup.layers = std::clamp<int64_t>(static_cast<int64_t>(bytesMax / layerBytes(model, setup.shard)), 1, model.layers);
  setup.kv = {model.weightType, setup.layers, point.headGroups, model.headDim, options.kvBlockTokens, 1};
  const size_t blockBytes = std::max<size_t>(1, setup.kv.sizeBytes());
  setup.batch = batchOfPoint(point, options.kvBlockTokens, static_cast<int64_t>(bytesMax / blockBytes));
  setup.kv.blocks = setup.batch.blocks;

  setup.options.kvBlocks = 0;
  for (const SequenceStep& sequence : setup.batch.step.sequences) {
    // Sizes the table of positions.
    setup.options.kvBlocks = std::max(setup.options.kvBlocks, static_cast<int64_t>(sequence.blockTable.size()));
  }
  setup.options.stepTokensMax = point.tokens + point.chunkTokens;
  setup.options.sequencesMax = static_cast<int64_t>(setup.batch.step.sequences.size());
  return setup;
}

double lowerQuartile(std::vector<double> seconds) {
  const auto quartile = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 4);
  std::nth_element(seconds.begin(), quartile, seconds.end());
  return *quartile;
}

TokenBatch flattenPoint(const StepBatch& step, int64_t vocabRows) {
  TokenBatch batch;
  for (const SequenceStep& sequence : step.sequences) {
    const auto tokens = static_cast<int64_t>(sequence.tokens.size());
    batch.sequences.push_back({batch.tokens(), tokens, sequence.startPosition, sequence.blockTable.data()});
    for (int64_t i = 0; i < tokens; ++i) {
      batch.tokenIds.push_back(static_cast<int32_t>((batch.tokens() * 37) % vocabRows));
      batch.positions.push_back(sequence.startPosition + i);
      batch.sequenceOf.push_back(static_cast<int32_t>(batch.sequences.size() - 1));
    }
  }
  return batch;
}

}  // namespace hels
