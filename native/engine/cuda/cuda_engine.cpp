#include "engine/cuda/cuda_engine.h"

#include <algorithm>
#include <utility>

#include "base/cuda/check.h"
#include "base/cuda/device_list.h"
#include "base/error.h"
#include "comm/cuda/host_staged_communicator.h"
#include "engine/cpu_engine.h"
#include "engine/cuda/cuda_self_check.h"
#include "engine/device_name.h"
#include "kernels/cpu/rope.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

/// Bytes of the mark of a row-parallel product without a bad row: as an int32 beyond all rows.
constexpr int kNoBadRow = 0x7F;

/// Of `previous` there remains what will be used.
CudaMemory checkedMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, int device,
                         CudaEngineRemains& previous) {
  validateCudaOptions(model, options);
  cuda::useDevice(device);
  const auto isHeldHere = [&](const KvLoan& loan) { return loan.holder == shard.rank; };
  const bool attends = !shard.headGroups.empty() || std::ranges::any_of(options.kvLoans, isHeldHere);
  if (attends) requireAttentionFits(model.weightType, model.headDim);
  const CudaMemory memory = measureCudaMemory(model, shard, options, model.layers);
  keepWhatFits(previous, model, shard, options, memory);
  return memory;
}

/// Null for the whole device.
std::unique_ptr<DevicePartition> takePartition(const EngineOptions& options, int device) {
  return options.multiprocessors == 0 ? nullptr : PartitionPool::of(device)->take(options.multiprocessors);
}

CudaScratch layout(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                   const DeviceBuffer& buffer) {
  clear(buffer, "scratch");  // padding is zero from now on
  Arena arena(buffer.data(), buffer.sizeBytes());
  return layoutCudaScratch(model, shard, options, cudaScratchSizes(model, shard, options, model.layers), arena);
}

/// Memory of this rank's KV: that of the engine before, with all that lies there, where neither heads nor addresses
/// change.
std::shared_ptr<DeviceBuffer> deviceMemory(const std::optional<CudaKeptKv>& previous, const KvHomes& homes,
                                           size_t sizeBytes) {
  if (previous && sameOnDevice(previous->homes, homes)) return previous->memory;
  return std::make_shared<DeviceBuffer>(sizeBytes, "KV");
}

std::shared_ptr<PinnedBuffer> hostMemory(const std::optional<CudaKeptKv>& previous, const KvHomes& homes,
                                         size_t sizeBytes) {
  if (previous && sameInHost(previous->homes, homes)) return previous->hostMemory;
  return std::make_shared<PinnedBuffer>(sizeBytes, "parked KV");
}

/// As the CPU's: the whole rows that wait, then the candidates of all ranks.
size_t hostSamplingSize(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options) {
  return static_cast<size_t>(kGatherRowsMax * divCeil(model.vocabRows, 2) +
                             samplingRowsMax(options) * shard.ranks * kSlotValues);
}

}  // namespace

std::unique_ptr<Engine> loadCudaEngine(const ModelSpec& model, const ShardSpec& shard,
                                       std::shared_ptr<WeightSource> weights, const EngineOptions& options,
                                       std::unique_ptr<Engine> previous) {
  auto engine = std::make_unique<CudaEngine>(model, shard, options, cudaRemainsOf(std::move(previous)));
  engine->load(std::move(weights));
  return engine;
}

std::unique_ptr<CudaEngine> loadRandomCudaEngine(const ModelSpec& model, const ShardSpec& shard,
                                                 const EngineOptions& options, uint64_t seed) {
  validateModelSpec(model);
  validateShardSpec(model, shard);
  validateEngineOptions(model, options);
  (void)kvHomesOf(model, shard, options);
  auto engine = std::make_unique<CudaEngine>(model, shard, options);
  engine->fillRandom(seed);
  return engine;
}

CudaEngine::CudaEngine(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                       CudaEngineRemains previous)
    : model_(model),
      shard_(shard),
      options_(options),
      device_(cudaDeviceOf(options.device).value_or(0)),
      memory_(checkedMemory(model_, shard_, options_, device_, previous)),
      kvHomes_(kvHomesOf(model_, shard_, options_)),
      previousKv_(std::move(previous.kv)),
      partition_(takePartition(options_, device_)),
      stream_(partition_ ? Stream(partition_->addStream()) : Stream()),
      products_(options_.numerics, partition_ ? partition_->multiprocessors() : 0),
      fingerprint_(cudaFingerprint(model_, options_, products_, stream_.get())),
      weights_(model_, shard_, model_.layers, std::move(previous.weights)),
      kvBuffer_(deviceMemory(previousKv_, kvHomes_, memory_.kvBytes)),
      kvHostBuffer_(hostMemory(previousKv_, kvHomes_, memory_.kvHostBytes)),
      kvLoanBuffer_(memory_.kvLoanBytes, "KV of other ranks"),
      scratchBuffer_(memory_.scratchBytes, "scratch"),
      scratch_(layout(model_, shard_, options_, scratchBuffer_)),
      collective_(shard_.rank, shard_.ranks),
      metadata_(largestStep(model_, options_), kvHomes_.deviceBlocks, scratch_.metadata),
      mover_(places()),
      remote_(kvHomes_.loans.empty() ? nullptr
                                     : std::make_unique<CudaRemoteAttention>(
                                           model_, options_, kvHomes_, kvLoanBuffer_.data(), exchange_, collective_)),
      forward_(model_, shard_, weights_.views(), kv(), scratch_, products_, collective_, remote_.get()),
      sampler_(shard_, options_, model_.layers, scratch_, collective_),
      hostLogits_(
          static_cast<size_t>(std::min(kLogitRowsMax, options_.stepTokensMax) * scratch_.logitsStride) * sizeof(float),
          "logits that the host samples from"),
      hostSamplingBuffer_(hostSamplingSize(model_, shard_, options_)),
      hostClock_(1.0),
      hostCollective_(shard_.rank, shard_.ranks, hostClock_),
      exchange_(shard_.rank, shard_.ranks, hostClock_),
      hostSampler_(model_, shard_, options_.threads, hostScratch_, hostCollective_),
      sampledTokens_(static_cast<size_t>(options_.sequencesMax), -1) {
  hostScratch_.sampling = hostSamplingBuffer_.data();
  if (shard_.ranks > 1) {
    hostCollective_.connect(
        std::make_shared<HostSums>(collective_, scratch_.hostSums, scratch_.hostSumsSize, stream_.get()));
  }
  uploadRopeTable();
}

CudaEngine::~CudaEngine() {
  (void)cudaSetDevice(device_);  // whichever thread ends the engine: memory goes back to the right device
}

void CudaEngine::uploadRopeTable() const {
  if (scratch_.ropeTable == nullptr) return;
  const std::vector<float> frequencies = ropeFrequencies(model_);
  std::vector<float> table(static_cast<size_t>(positionsMax(model_, options_) * model_.headDim));
  for (int64_t position = 0; position < positionsMax(model_, options_); ++position) {
    fillRopeRow(frequencies, position, table.data() + position * model_.headDim);
  }
  check(cudaMemcpy(const_cast<float*>(scratch_.ropeTable), table.data(), table.size() * sizeof(float),
                   cudaMemcpyHostToDevice),
        "copy of the rotations");
}

void CudaEngine::load(std::shared_ptr<WeightSource> weights) {
  useDevice();
  WeightReader reader(std::move(weights), options_.corruption);
  weights_.load(reader);
  accounting_ = reader.accounting();
}

void CudaEngine::fillRandom(uint64_t seed) {
  useDevice();
  // KV too: a step may then attend to positions that no step has written, which else hold anything, NaN too.
  cuda::fillRandom(model_.weightType, kvBuffer_->data(),
                   static_cast<int64_t>(kvBuffer_->sizeBytes() / bytesOf(model_.weightType)), 1.0F, seed,
                   stream_.get());
  weights_.fillRandom(seed, stream_.get());
}

void CudaEngine::useDevice() const { check(cudaSetDevice(device_), options_.device); }

void CudaEngine::connect(std::shared_ptr<Communicator> communicator) {
  require(communicator != nullptr, ErrorCode::kShapeInvalid, "connect() needs a communicator");
  useDevice();
  exchange_.connect(communicator);
  const int64_t valuesMax = std::max(options_.stepTokensMax * model_.hiddenSize, scratch_.hostSumsSize);
  connectDevice(stageThroughHost(std::move(communicator), static_cast<size_t>(valuesMax)));
}

void CudaEngine::connectDevice(std::shared_ptr<DeviceCommunicator> communicator) {
  collective_.connect(std::move(communicator));
}

void CudaEngine::abort() noexcept {
  collective_.abort();
  exchange_.abort();
}

StepResult CudaEngine::step(const StepBatch& batch) {
  const TokenBatch tokens = makeTokenBatch(batch, model_, options_, sampledTokens_);
  collective_.requireConnected();
  requireLending(batch);
  useDevice();
  collective_.beginStep(deadlineOrDefault(batch.collectiveDeadline));
  exchange_.setDeadline(deadlineOrDefault(batch.collectiveDeadline));
  hostClock_.beginStep();
  dropPreviousKv();
  kvWhole_ = false;
  try {
    StepResult result = run(batch, tokens);
    kvWhole_ = true;
    return result;
  } catch (...) {
    abort();  // the peers would wait for this rank until their deadline
    throw;
  }
}

/// What is lent has no place here to move to or from.
void CudaEngine::requireLending(const StepBatch& batch) const {
  if (remote_) exchange_.requireConnected();
  require(!remote_ || batch.kvMoves.empty(), ErrorCode::kShapeInvalid,
          "kvMoves is not empty; with kvLoans it must be on device " + options_.device);
}

void CudaEngine::listLogitRows(const StepBatch& batch, const TokenBatch& tokens) {
  logitRows_.clear();
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& sequence = tokens.sequences[i];
    const bool samples = batch.sequences[i].sampling.has_value();
    const int64_t last = sequence.firstToken + sequence.tokens - 1;
    const int64_t first = batch.sequences[i].returnLogits ? sequence.firstToken : samples ? last : last + 1;
    for (int64_t token = first; token <= last; ++token) {
      logitRows_.push_back({token, static_cast<int32_t>(i), samples && token == last});
    }
  }
}

/// A step of decode tokens that are all sampled on the device takes the size of its bucket, and can be replayed.
StepShape CudaEngine::launchShape(const TokenBatch& tokens, bool replayable) const {
  StepShape shape = shapeOf(tokens, logitRows_, options_.kvBlockTokens);
  const StepShape largest = largestStep(model_, options_);
  if (!replayable) return shape;
  shape.sequences = sequenceBucket(shape.sequences, largest.sequences);
  shape.tokens = shape.logitRows = shape.sequences;
  shape.contextMax = contextBucket(shape.contextMax, largest.contextMax);
  shape.tableBlocks = divCeil(shape.contextMax, options_.kvBlockTokens);
  return shape;
}

/// The whole step of `metadata_` but for its results' way to the host.
void CudaEngine::enqueue(bool noise) {
  const cudaStream_t stream = stream_.get();
  check(cudaMemsetAsync(scratch_.badRows, kNoBadRow, static_cast<size_t>(2 * model_.layers) * sizeof(int32_t), stream),
        "clearing of bad rows");
  forward_.run(metadata_, stream);
  if (metadata_.shape().logitRows == 0) return;
  forward_.logits(metadata_, 0, metadata_.shape().logitRows, stream);
  sampler_.enqueue(metadata_, noise, stream);
}

StepResult CudaEngine::run(const StepBatch& batch, const TokenBatch& tokens) {
  const auto start = std::chrono::steady_clock::now();
  const bool moves = !batch.kvMoves.empty();
  StepResult result;
  const double exchangedBefore = exchange_.exchangeSeconds();
  const double workedBefore = exchange_.exchangeWorkSeconds();
  if (moves) mover_.begin(batch.kvMoves, batch.sequences, stream_.get());
  if (tokens.tokens() > 0) compute(batch, tokens, result);
  if (moves) {
    mover_.finish(stream_.get());
    collective_.synchronize(stream_.get());
  }
  const std::chrono::duration<double> total = std::chrono::steady_clock::now() - start;
  result.totalSeconds = total.count();
  result.collectiveSeconds = std::min(result.totalSeconds, collective_.seconds());
  const double exchangeSeconds =
      std::min(result.totalSeconds - result.collectiveSeconds, exchange_.exchangeSeconds() - exchangedBefore);
  result.remoteSeconds = std::min(exchangeSeconds, exchange_.exchangeWorkSeconds() - workedBefore);
  const double busySeconds = result.totalSeconds - result.collectiveSeconds - exchangeSeconds;
  if (moves) result.moveSeconds = std::min(busySeconds, mover_.seconds());
  result.computeSeconds = busySeconds - result.moveSeconds;
  moveSeconds_ += result.moveSeconds;
  remoteSeconds_ += result.remoteSeconds;
  return result;
}

/// Enqueues the step, waits for it, and fills in what it has sampled and the logits that were asked for.
void CudaEngine::compute(const StepBatch& batch, const TokenBatch& tokens, StepResult& result) {
  listLogitRows(batch, tokens);
  bool onHost = false;
  bool noise = false;
  for (const SequenceStep& sequence : batch.sequences) {
    onHost = onHost || sequence.returnLogits || !sequence.bannedTokens.empty() ||
             (sequence.sampling && needsWholeRow(*sequence.sampling));
    noise = noise || (sequence.sampling && sequence.sampling->temperature > 0.0F);
  }
  const bool decode = tokens.tokens() == static_cast<int64_t>(batch.sequences.size()) &&
                      logitRows_.size() == batch.sequences.size() && !onHost;
  const bool replayable = decode && graphsOn_ && shard_.ranks == 1;
  metadata_.write(batch, tokens, logitRows_, launchShape(tokens, replayable));
  metadata_.upload(stream_.get());
  if (remote_) remote_->begin(tokens, metadata_.shape(), stream_.get());
  if (onHost) {
    sampleOnHost(batch, tokens, result);
  } else {
    const StepShape& shape = metadata_.shape();
    if (replayable) {
      graphs_.run({shape.sequences, shape.contextMax, noise}, stream_.get(), [&] { enqueue(noise); });
    } else {
      enqueue(noise);
    }
    sampler_.download(static_cast<int64_t>(logitRows_.size()), stream_.get());
    collective_.synchronize(stream_.get());
    requireNoBadRow(tokens);
    result.sampled = sampler_.read(batch, tokens, logitRows_);
  }
  keepSampled(result, onHost);
}

/// The layers, then logits by way of the host, kLogitRowsMax at a time: kept in the result, offered to the sampler, or
/// both.
void CudaEngine::sampleOnHost(const StepBatch& batch, const TokenBatch& tokens, StepResult& result) {
  const cudaStream_t stream = stream_.get();
  check(cudaMemsetAsync(scratch_.badRows, kNoBadRow, static_cast<size_t>(2 * model_.layers) * sizeof(int32_t), stream),
        "clearing of bad rows");
  forward_.run(metadata_, stream);
  sampler_.download(0, stream);
  collective_.synchronize(stream);
  requireNoBadRow(tokens);
  hostSampler_.begin();
  const int64_t columns = shard_.vocabRows.size();
  std::vector<LogitsRow> sampling;
  const auto rows = static_cast<int64_t>(logitRows_.size());
  for (int64_t begin = 0; begin < rows; begin += kLogitRowsMax) {
    const int64_t count = std::min(kLogitRowsMax, rows - begin);
    forward_.logits(metadata_, begin, count, stream);
    if (columns > 0) {
      check(cudaMemcpyAsync(hostLogits_.data(), scratch_.logits,
                            static_cast<size_t>(count * scratch_.logitsStride) * sizeof(float), cudaMemcpyDeviceToHost,
                            stream),
            "copy of logits");
    }
    collective_.synchronize(stream);
    sampling.clear();
    auto* logits = hostLogits_.as<float>();
    for (int64_t i = begin; i < begin + count; ++i, logits += scratch_.logitsStride) {
      const LogitRow& row = logitRows_[static_cast<size_t>(i)];
      const SequenceStep& sequence = batch.sequences[static_cast<size_t>(row.sequence)];
      if (sequence.returnLogits) result.logits.insert(result.logits.end(), logits, logits + columns);
      if (!row.samples) continue;
      sampling.push_back({&sequence, tokens.positions[static_cast<size_t>(row.token)] + 1, logits});
    }
    hostSampler_.add(sampling);
  }
  result.sampled = hostSampler_.finish();
}

/// Remembers the sampled tokens by slot; what the host has sampled goes to the device too.
void CudaEngine::keepSampled(const StepResult& result, bool upload) {
  for (const SampledToken& sampled : result.sampled) {
    sampledTokens_[static_cast<size_t>(sampled.slot)] = sampled.tokenId;
  }
  if (!upload || result.sampled.empty()) return;
  check(cudaMemcpyAsync(scratch_.sampled, sampledTokens_.data(), sampledTokens_.size() * sizeof(int32_t),
                        cudaMemcpyHostToDevice, stream_.get()),
        "copy of sampled tokens");
  collective_.synchronize(stream_.get());
}

void CudaEngine::requireNoBadRow(const TokenBatch& tokens) const {
  for (int64_t i = 0; i < 2 * model_.layers; ++i) {
    const int32_t row = sampler_.badRows()[i];
    if (row >= tokens.tokens()) continue;  // none, or one of a graph's padding
    throw Error(ErrorCode::kNumericRange, "layer " + std::to_string(i / 2) + ", " + (i % 2 == 0 ? "attention" : "MLP") +
                                              " output: a partial sum of sequence " +
                                              std::to_string(tokens.sequenceOf[static_cast<size_t>(row)]) +
                                              " of the step, position " +
                                              std::to_string(tokens.positions[static_cast<size_t>(row)]) +
                                              ", is NaN, infinite or not below 2^24");
  }
}

EngineReport CudaEngine::report() const {
  EngineReport report;
  report.weightBytesLoaded = accounting_.bytesLoaded;
  report.weightBytesReplicated = accounting_.bytesReplicated;
  report.weightBytesAdopted = weights_.adoptedBytes();
  report.weightBytesResident = memory_.weightBytes;
  report.kvBytes = memory_.kvBytes;
  report.kvHostBytes = memory_.kvHostBytes;
  report.kvLoanBytes = memory_.kvLoanBytes;
  report.scratchBytes = memory_.scratchBytes + memory_.remote.device;
  report.kvKept = previousKv_.has_value();
  report.residentBytes = memory_.totalBytes();
  if (previousKv_ && previousKv_->memory != kvBuffer_) report.residentBytes += previousKv_->memory->sizeBytes();
  report.allReduceCount = collective_.count();
  report.allReduceBytes = collective_.bytes();
  report.exchangeCount = exchange_.exchangeCount();
  report.exchangeBytes = exchange_.exchangeBytes();
  report.moveSeconds = moveSeconds_;
  report.remoteSeconds = remoteSeconds_;
  report.corrupted = accounting_.corrupted;
  report.fingerprint = fingerprint_;
  report.gemmImplementation = products_.implementation();
  return report;
}

}  // namespace hels::cuda
