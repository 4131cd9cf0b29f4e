#include "engine/cpu_engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "base/processor_time.h"
#include "engine/kv_migrator.h"
#include "engine/self_check.h"
#include "engine/weight_loader.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/fixed_point.h"

namespace hels {
namespace {

std::string gibibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f GiB", static_cast<double>(bytes) / static_cast<double>(size_t{1} << 30));
  return text;
}

void requireRange(const char* field, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + std::to_string(value) + "; allowed is " + std::to_string(low) + " to " +
              std::to_string(high));
}

/// Of every block; head groups and blocks are those of its cache.
KvShape kvShapeOf(const ModelSpec& model, const EngineOptions& options) {
  return {model.weightType, model.layers, 0, model.headDim, options.kvBlockTokens, 0};
}

/// Checks everything that later code relies on, then the budget, before anything is allocated.
EngineMemory checkedMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                           const Gemm& gemm) {
  const EngineMemory memory = measureMemory(model, shard, options, gemm);
  const size_t total = memory.weightBytes + memory.kv.device + memory.kv.loans + memory.scratchBytes;
  require(options.memoryBytes == 0 || total <= options.memoryBytes, ErrorCode::kMemoryExceeded,
          "rank " + std::to_string(shard.rank) + " needs " + gibibytes(total) + " (weights " +
              gibibytes(memory.weightBytes) + ", KV " + gibibytes(memory.kv.device) + ", KV held for others " +
              gibibytes(memory.kv.loans) + ", scratch " + gibibytes(memory.scratchBytes) + "), its memory budget is " +
              gibibytes(options.memoryBytes) +
              "; give it fewer head groups, FFN columns or KV blocks, or raise the budget");
  return memory;
}

/// Memory of this rank's KV: that of the engine before, with all that lies there, where neither heads nor addresses
/// change.
std::shared_ptr<Arena> deviceMemory(const std::optional<KeptKv>& previous, const KvHomes& homes, size_t sizeBytes) {
  const bool same = previous && sameOnDevice(previous->store.homes(), homes);
  return same ? previous->device : std::make_shared<Arena>(sizeBytes, "KV");
}

/// Taken at once, but where KV of the engine before takes its place until it has moved.
std::shared_ptr<Arena> loanMemory(const std::optional<KeptKv>& previous, const KvHomes& homes, size_t sizeBytes) {
  const bool kept = previous && previous->loans != nullptr;
  if (kept && sameHeld(previous->store.homes(), homes)) return previous->loans;
  return std::make_shared<Arena>(sizeBytes, "KV of other ranks", previous ? ArenaPages::kLarge : ArenaPages::kLargeNow);
}

std::shared_ptr<Arena> hostMemory(const std::optional<KeptKv>& previous, const KvHomes& homes, size_t sizeBytes) {
  const bool same = previous && sameInHost(previous->store.homes(), homes);
  return same ? previous->host : std::make_shared<Arena>(sizeBytes, "parked KV", ArenaPages::kSmall);
}

/// Inputs of the widest product of a step, in whole blocks for each granule; those of queries, keys and values have two
/// terms with bf16 weights.
int64_t gemmDepthMax(const ModelSpec& model, const ShardSpec& shard) {
  const auto inBlocks = [](int64_t depth, int64_t granule) {
    return divCeil(depth, granule) * roundUp(granule, kBlockInputs);
  };
  const int64_t terms = model.weightType == DataType::kBf16 ? 2 : 1;
  return std::max({terms * roundUp(model.hiddenSize, kBlockInputs), roundUp(model.embeddingSize, kBlockInputs),
                   inBlocks(queryColumns(model, shard), model.queryHeadsPerGroup * model.headDim),
                   inBlocks(shard.ffnColumns.size(), model.ffnGranule)});
}

}  // namespace

void validateEngineOptions(const ModelSpec& model, const EngineOptions& options) {
  requireRange("threads", options.threads, 1, 1024);
  requireRange("multiprocessors", options.multiprocessors, 0, 1024);
  require(options.multiprocessors == 0 || options.device != "cpu", ErrorCode::kShapeInvalid,
          "multiprocessors is " + std::to_string(options.multiprocessors) + "; it must be 0 for device cpu");
  require(options.speed > 0.0 && options.speed <= 1.0, ErrorCode::kShapeInvalid,
          "speed is " + std::to_string(options.speed) + "; allowed is above 0 to 1");
  validateKvBlockTokens(options.kvBlockTokens);
  requireRange("kvBlocks", options.kvBlocks, 1, int64_t{1} << 31);
  requireRange("stepTokensMax", options.stepTokensMax, 1, int64_t{1} << 20);
  requireRange("sequencesMax", options.sequencesMax, 1, int64_t{1} << 20);
  requireRange("headGroups", model.headGroups, 1, kFixedPointPartialsMax);
  require(divCeil(model.ffnColumns, model.ffnGranule) <= kFixedPointPartialsMax, ErrorCode::kShapeInvalid,
          "ffnGranule is " + std::to_string(model.ffnGranule) + ": at most " + std::to_string(kFixedPointPartialsMax) +
              " granules of " + std::to_string(model.ffnColumns) + " FFN columns can be summed");
  require(model.quantization == Quantization::kNone || options.numerics == Numerics::kExact, ErrorCode::kShapeInvalid,
          std::string("numerics is fast; it must be exact with quantization ") + quantizationName(model.quantization));
}

KvHomes kvHomesOf(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options) {
  KvHomes homes;
  homes.rank = shard.rank;
  homes.ranks = shard.ranks;
  homes.headGroups = shard.headGroups;
  homes.blocks = options.kvBlocks;
  homes.parkedBlocks = options.kvParkedBlocks;
  homes.deviceBlocks = options.kvDeviceBlocks.value_or(options.kvBlocks);
  homes.loans = options.kvLoans;
  return checkedKvHomes(std::move(homes), model.headGroups, options.kvBlockTokens);
}

std::unique_ptr<Gemm> makeGemm(const EngineOptions& options) {
  return options.numerics == Numerics::kExact ? makeChainGemm(options.threads) : makeOneDnnGemm(options.threads);
}

EngineMemory measureMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                           const Gemm& gemm) {
  size_t weightBytes = 0;
  for (const size_t partBytes : CpuWeights::measure(model, shard, gemm)) weightBytes += partBytes;
  Arena scratch;
  layoutScratch(model, shard, options, scratch);
  const KvHomes homes = kvHomesOf(model, shard, options);
  layoutExchangeBuffers(model, homes, options, scratch);
  return {weightBytes, kvBytesOf(homes, kvShapeOf(model, options)),
          scratch.usedBytes() + kLoadStagingBytes +
              gemm.workspaceBytes(model.weightType, options.stepTokensMax, gemmDepthMax(model, shard))};
}

CpuEngine::CpuEngine(const ModelSpec& model, const ShardSpec& shard, std::shared_ptr<WeightSource> weights,
                     const EngineOptions& options, CpuEngineRemains previous)
    : model_(model),
      shard_(shard),
      options_(options),
      gemm_(makeGemm(options)),
      memory_(checkedMemory(model_, shard_, options_, *gemm_)),
      kvHomes_(kvHomesOf(model_, shard_, options_)),
      previousKv_(kvFor(previous, model_, kvHomes_, options_, memory_.weightBytes + memory_.scratchBytes,
                        memory_.kv.device + memory_.kv.loans)),
      weights_(model_, shard_, *gemm_, weightsFor(previous, model_, options_)),
      kvArena_(deviceMemory(previousKv_, kvHomes_, memory_.kv.device)),
      kvHostArena_(hostMemory(previousKv_, kvHomes_, memory_.kv.host)),
      kvLoanArena_(loanMemory(previousKv_, kvHomes_, memory_.kv.loans)),
      scratchArena_(memory_.scratchBytes, "scratch"),
      scratch_(layoutScratch(model_, shard_, options_, scratchArena_)),
      clock_(options_.speed),
      collective_(shard_.rank, shard_.ranks, clock_),
      kv_(kvHomes_, kvShapeOf(model_, options_), kvArena_->data(), kvHostArena_->data(), kvLoanArena_->data()),
      exchangeBuffers_(layoutExchangeBuffers(model_, kvHomes_, options_, scratchArena_)),
      mover_(kv_, exchangeBuffers_, layersAtOnce(model_, kvHomes_, options_), collective_),
      remote_(model_, options_, kv_, exchangeBuffers_, collective_),
      forward_(model_, shard_, options_, *gemm_, weights_.views(), kv_.device(), scratch_, collective_,
               kvHomes_.loans.empty() ? nullptr : &remote_),
      sampler_(model_, shard_, options_.threads, scratch_, collective_),
      fingerprint_(selfCheck(model_, options_, *gemm_)),
      sampledTokens_(static_cast<size_t>(options_.sequencesMax), -1) {
  gemm_->reserve(model_.weightType, options_.stepTokensMax, gemmDepthMax(model_, shard_));
  WeightReader reader(std::move(weights), options_.corruption);
  weights_.load(model_, shard_, *gemm_, reader);
}

CpuEngineRemains CpuEngine::remains() {
  CpuEngineRemains remains{model_, options_, weights_.regions(), std::nullopt};
  if (kvWhole_) remains.kv = KeptKv{kvArena_, kvHostArena_, kvLoanArena_, kv_};
  return remains;
}

void CpuEngine::connect(std::shared_ptr<Communicator> communicator) { collective_.connect(std::move(communicator)); }

KvMigrationResult CpuEngine::migrateKv(const KvMigration& migration) {
  std::optional<KvStorePieces> pieces;
  KvSource source;
  if (previousKv_) {
    pieces.emplace(previousKv_->store, &kv_);
    source = {&*pieces, previousKv_->store.homes()};
  }
  const KvSource* kept = previousKv_ ? &source : nullptr;
  validateKvMigration(migration, kvHomes_, model_.headGroups, kept);
  collective_.requireConnected();
  collective_.setDeadline(deadlineOrDefault(migration.deadline));
  try {
    KvStorePieces target(kv_);
    const KvMigrationResult result = KvMigrator(migration, kept, target, kvHomes_, collective_).run();
    dropPreviousKv();
    kvWhole_ = true;
    return result;
  } catch (...) {
    previousKv_.reset();
    collective_.abort();  // the peers would wait for this rank until their deadline
    throw;
  }
}

void CpuEngine::dropPreviousKv() {
  if (!previousKv_) return;
  previousKv_.reset();
  kvLoanArena_->populate();
}

void CpuEngine::abort() noexcept { collective_.abort(); }

StepResult CpuEngine::step(const StepBatch& batch) {
  const TokenBatch tokens = makeTokenBatch(batch, model_, options_, sampledTokens_);
  collective_.requireConnected();
  collective_.setDeadline(deadlineOrDefault(batch.collectiveDeadline));
  dropPreviousKv();
  kvWhole_ = false;
  try {
    StepResult result = run(batch, tokens);
    kvWhole_ = true;
    return result;
  } catch (...) {
    collective_.abort();  // the peers would wait for this rank until their deadline
    throw;
  }
}

StepResult CpuEngine::run(const StepBatch& batch, const TokenBatch& tokens) {
  clock_.beginStep();
  StepResult result;
  const double exchangedBefore = collective_.exchangeSeconds();
  const double workedBefore = collective_.exchangeWorkSeconds();
  const CopySeconds copies = batch.kvMoves.empty() ? CopySeconds{} : move(batch.kvMoves);
  const double workedMoving = collective_.exchangeWorkSeconds();
  if (tokens.tokens() > 0) compute(batch, tokens, result);
  clock_.endStep();
  const double exchangeSeconds = collective_.exchangeSeconds() - exchangedBefore;
  result.moveSeconds = copies.worked + workedMoving - workedBefore;
  result.remoteSeconds = collective_.exchangeWorkSeconds() - workedMoving;
  result.computeSeconds = clock_.computeSeconds();
  result.collectiveSeconds = std::max(0.0, clock_.collectiveSeconds() - copies.passed - exchangeSeconds);
  result.totalSeconds = clock_.totalSeconds();
  moveSeconds_ += result.moveSeconds;
  remoteSeconds_ += result.remoteSeconds;
  return result;
}

/// What emulates a slower processor does not stretch copies.
CpuEngine::CopySeconds CpuEngine::move(const std::vector<KvMove>& moves) {
  clock_.endCompute();
  const double exchangedBefore = collective_.exchangeSeconds();
  const double exchangedProcessorBefore = collective_.exchangeProcessorSeconds();
  const auto start = std::chrono::steady_clock::now();
  const auto processorStart = processorTime();
  mover_.run(moves);
  const std::chrono::duration<double> processor = processorTime() - processorStart;
  const std::chrono::duration<double> all = std::chrono::steady_clock::now() - start;
  clock_.beginCompute();
  const double passed = all.count() - (collective_.exchangeSeconds() - exchangedBefore);
  const double worked = processor.count() - (collective_.exchangeProcessorSeconds() - exchangedProcessorBefore);
  return {std::max(0.0, passed), std::clamp(worked, 0.0, std::max(0.0, passed))};
}

void CpuEngine::compute(const StepBatch& batch, const TokenBatch& tokens, StepResult& result) {
  sampler_.begin();
  forward_.run(tokens);
  computeLogits(batch, tokens, result);
  result.sampled = sampler_.finish();
  for (const SampledToken& sampled : result.sampled) {
    sampledTokens_[static_cast<size_t>(sampled.slot)] = sampled.tokenId;
  }
}

/// Logits of the tokens that need them, kLogitRowsMax at a time: kept in the result, offered to the sampler, or both.
void CpuEngine::computeLogits(const StepBatch& batch, const TokenBatch& tokens, StepResult& result) {
  struct LogitRow {
    int64_t token;
    size_t sequence;
    bool samples;
  };
  std::vector<LogitRow> rows;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& sequence = tokens.sequences[i];
    const bool samples = batch.sequences[i].sampling.has_value();
    const int64_t last = sequence.firstToken + sequence.tokens - 1;
    const int64_t first = batch.sequences[i].returnLogits ? sequence.firstToken : samples ? last : last + 1;
    for (int64_t token = first; token <= last; ++token) rows.push_back({token, i, samples && token == last});
  }
  const int64_t columns = shard_.vocabRows.size();
  std::vector<int64_t> part;
  std::vector<LogitsRow> sampling;
  for (size_t begin = 0; begin < rows.size(); begin += part.size()) {
    const size_t end = std::min(rows.size(), begin + static_cast<size_t>(kLogitRowsMax));
    part.clear();
    for (size_t row = begin; row < end; ++row) part.push_back(rows[row].token);
    sampling.clear();
    float* logits = forward_.logits(part);
    for (size_t row = begin; row < end; ++row, logits += scratch_.logitsStride) {
      const SequenceStep& sequence = batch.sequences[rows[row].sequence];
      if (sequence.returnLogits) result.logits.insert(result.logits.end(), logits, logits + columns);
      if (!rows[row].samples) continue;
      const int64_t position = tokens.positions[static_cast<size_t>(rows[row].token)] + 1;
      sampling.push_back({&sequence, position, logits});
    }
    sampler_.add(sampling);
  }
}

EngineReport CpuEngine::report() const {
  EngineReport report;
  report.weightBytesLoaded = weights_.loaded().bytesLoaded;
  report.weightBytesReplicated = weights_.loaded().bytesReplicated;
  report.weightBytesAdopted = weights_.adoptedBytes();
  report.weightBytesResident = memory_.weightBytes;
  report.kvBytes = memory_.kv.device;
  report.kvHostBytes = memory_.kv.host;
  report.kvLoanBytes = memory_.kv.loans;
  report.scratchBytes = memory_.scratchBytes;
  report.kvKept = previousKv_.has_value();
  report.kvLoansKept = previousKv_ && previousKv_->loans != nullptr;
  report.residentBytes = memory_.weightBytes + scratchArena_.residentBytes() + kvArena_->residentBytes();
  if (previousKv_ && previousKv_->device != kvArena_) report.residentBytes += previousKv_->device->residentBytes();
  report.residentBytes += kvLoanArena_->residentBytes();
  if (report.kvLoansKept && previousKv_->loans != kvLoanArena_) {
    report.residentBytes += previousKv_->loans->residentBytes();
  }
  report.allReduceCount = collective_.count();
  report.allReduceBytes = collective_.bytes();
  report.exchangeCount = collective_.exchangeCount();
  report.exchangeBytes = collective_.exchangeBytes();
  report.moveSeconds = moveSeconds_;
  report.remoteSeconds = remoteSeconds_;
  report.corrupted = weights_.loaded().corrupted;
  report.fingerprint = fingerprint_;
  report.gemmImplementation = gemm_->implementation();
  return report;
}

}  // namespace hels
