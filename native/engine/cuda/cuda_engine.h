// The engine on a GPU: owns a rank's memory there and runs its steps. The arithmetic is in cuda_forward.h, the choice
// of tokens in cuda_sampler.h, or, where whole rows of logits are needed, in engine/sampler.h on the host.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cuda/device_partition.h"
#include "base/cuda/stream.h"
#include "engine/cuda/cuda_engine_remains.h"
#include "engine/cuda/cuda_forward.h"
#include "engine/cuda/cuda_kv_mover.h"
#include "engine/cuda/cuda_memory.h"
#include "engine/cuda/cuda_sampler.h"
#include "engine/cuda/cuda_weights.h"
#include "engine/cuda/graph_cache.h"
#include "engine/sampler.h"

namespace hels::cuda {

/// Engine::load() for options.device "cuda:N", after its checks. Throws kModelInvalid, kShapeInvalid, kMemoryExceeded,
/// kDeviceMissing, kDeviceLost.
std::unique_ptr<Engine> loadCudaEngine(const ModelSpec& model, const ShardSpec& shard,
                                       std::shared_ptr<WeightSource> weights, const EngineOptions& options,
                                       std::unique_ptr<Engine> previous);

class CudaEngine final : public Engine {
 public:
  /// An engine whose weights are zero: load() or fillRandom() comes next. The arguments are checked already but for
  /// what this engine does not do. `previous`: of the engine before; what is not taken over goes before anything is
  /// taken.
  CudaEngine(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
             CudaEngineRemains previous = {});
  ~CudaEngine() override;

  /// What the next engine may take over. This one is not used any more.
  CudaEngineRemains remains();

  void load(std::shared_ptr<WeightSource> weights);
  /// Made-up weights and KV, for benchmarks of models that are not at hand.
  void fillRandom(uint64_t seed);
  /// Off: every step launches its kernels one by one. For tests and measurements; bits are the same.
  void setGraphs(bool on) { graphsOn_ = on; }
  /// Attention over lent KV in turns of so many tokens, set on all ranks alike. For tests; bits are the same.
  void limitRemoteTurns(int64_t tokens) { remote_->limitTurns(tokens); }
  const GraphCache& graphs() const { return graphs_; }

  void connect(std::shared_ptr<Communicator> communicator) override;
  void connectDevice(std::shared_ptr<DeviceCommunicator> communicator) override;
  void connectExchange(std::shared_ptr<Communicator> communicator) override;
  KvMigrationResult migrateKv(const KvMigration& migration) override;
  void dropPreviousKv() override;
  StepResult step(const StepBatch& batch) override;
  EngineReport report() const override;
  void abort() noexcept override;

 private:
  StepResult run(const StepBatch& batch, const TokenBatch& tokens);
  void compute(const StepBatch& batch, const TokenBatch& tokens, StepResult& result);
  void requireLending(const StepBatch& batch) const;
  void listLogitRows(const StepBatch& batch, const TokenBatch& tokens);
  StepShape launchShape(const TokenBatch& tokens, bool replayable) const;
  void enqueue(bool noise);
  void sampleOnHost(const StepBatch& batch, const TokenBatch& tokens, StepResult& result);
  void keepSampled(const StepResult& result, bool upload);
  void requireNoBadRow(const TokenBatch& tokens) const;
  void useDevice() const;
  CudaKv kv() const { return {cudaKvShape(model_, shard_, options_, model_.layers), kvBuffer_->data()}; }
  CudaKvPlaces places() const { return {kvHomes_, kv(), kvHostBuffer_->data()}; }
  void uploadRopeTable() const;

  const ModelSpec model_;
  const ShardSpec shard_;
  const EngineOptions options_;
  const int device_;
  const CudaMemory memory_;  // also checked
  const KvHomes kvHomes_;
  std::optional<CudaKeptKv> previousKv_;
  const std::unique_ptr<DevicePartition> partition_;  // null: the whole device
  const Stream stream_;
  CudaProducts products_;
  const std::string fingerprint_;
  CudaWeights weights_;
  const std::shared_ptr<DeviceBuffer> kvBuffer_;      // the memory of previousKv_ where its shape stays
  const std::shared_ptr<PinnedBuffer> kvHostBuffer_;  // so too
  const DeviceBuffer kvLoanBuffer_;
  const DeviceBuffer scratchBuffer_;
  CudaScratch scratch_;
  CudaCollective collective_;
  StepMetadata metadata_;
  CudaKvMover mover_;
  const std::unique_ptr<CudaRemoteAttention> remote_;  // null: a group without loans
  CudaForward forward_;
  CudaSampler sampler_;
  GraphCache graphs_;
  bool graphsOn_ = true;
  std::vector<LogitRow> logitRows_;  // of the step

  // What the host samples.
  const PinnedBuffer hostLogits_;  // (kLogitRowsMax, logitsStride)
  std::vector<int64_t> hostSamplingBuffer_;
  Scratch hostScratch_;
  DeviceClock hostClock_;
  Collective hostCollective_;
  Collective exchange_;  // of bytes, by way of the host
  Sampler hostSampler_;

  LoadAccounting accounting_;
  double moveSeconds_ = 0;
  double remoteSeconds_ = 0;
  bool kvWhole_ = false;                // a step or a migration has ended well, and none badly since
  std::vector<int32_t> sampledTokens_;  // by slot; -1 = none yet
};

/// An engine with made-up weights. The same checks and errors as Engine::load().
std::unique_ptr<CudaEngine> loadRandomCudaEngine(const ModelSpec& model, const ShardSpec& shard,
                                                 const EngineOptions& options, uint64_t seed);

}  // namespace hels::cuda
