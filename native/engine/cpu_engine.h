// The engine on a CPU: owns a rank's memory and runs its steps. The arithmetic is in forward_pass.h, the choice of
// tokens in sampler.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/arena.h"
#include "engine/cpu_engine_remains.h"
#include "engine/cpu_weights.h"
#include "engine/forward_pass.h"
#include "engine/kv_mover.h"
#include "engine/remote_attention.h"
#include "engine/sampler.h"
#include "kv/kv_store.h"
#include "model/weight_block.h"

namespace hels {

/// Throws kShapeInvalid naming the field, its value and the allowed range.
void validateEngineOptions(const ModelSpec& model, const EngineOptions& options);

/// The implementation of products for options.numerics.
std::unique_ptr<Gemm> makeGemm(const EngineOptions& options);

/// Where the KV of all ranks lies. Throws kShapeInvalid naming the field, its value and the allowed range.
KvHomes kvHomesOf(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options);

/// The largest parts of an engine's memory, known before any of it is allocated. All but kv.host lies on the device.
struct EngineMemory {
  size_t weightBytes = 0;
  KvBytes kv;
  size_t scratchBytes = 0;
};
EngineMemory measureMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                           const Gemm& gemm);

class CpuEngine final : public Engine {
 public:
  /// `previous`: of the engine before; what is not taken over goes before anything is allocated.
  CpuEngine(const ModelSpec& model, const ShardSpec& shard, std::shared_ptr<WeightSource> weights,
            const EngineOptions& options, CpuEngineRemains previous = {});

  /// What the next engine may take over. This one is not used any more.
  CpuEngineRemains remains();

  void connect(std::shared_ptr<Communicator> communicator) override;
  KvMigrationResult migrateKv(const KvMigration& migration) override;
  void dropPreviousKv() override;
  StepResult step(const StepBatch& batch) override;
  EngineReport report() const override;
  void abort() noexcept override;

 private:
  StepResult run(const StepBatch& batch, const TokenBatch& tokens);
  /// Of a step's moves, without exchanges: what passed, and of that what is left without waiting for a core.
  struct CopySeconds {
    double passed = 0;
    double worked = 0;
  };
  CopySeconds move(const std::vector<KvMove>& moves);
  void compute(const StepBatch& batch, const TokenBatch& tokens, StepResult& result);
  void computeLogits(const StepBatch& batch, const TokenBatch& tokens, StepResult& result);

  const ModelSpec model_;
  const ShardSpec shard_;
  const EngineOptions options_;
  const std::unique_ptr<Gemm> gemm_;
  const EngineMemory memory_;
  const KvHomes kvHomes_;
  std::optional<KeptKv> previousKv_;
  CpuWeights weights_;
  const std::shared_ptr<Arena> kvArena_;      // the memory of previousKv_ where its shape stays
  const std::shared_ptr<Arena> kvHostArena_;  // so too
  const std::shared_ptr<Arena> kvLoanArena_;
  Arena scratchArena_;
  Scratch scratch_;
  DeviceClock clock_;
  Collective collective_;
  KvStore kv_;
  const ExchangeBuffers exchangeBuffers_;
  KvMover mover_;
  RemoteAttention remote_;
  ForwardPass forward_;
  Sampler sampler_;
  double moveSeconds_ = 0;
  double remoteSeconds_ = 0;
  std::string fingerprint_;
  bool kvWhole_ = false;                // a step or a migration has ended well, and none badly since
  std::vector<int32_t> sampledTokens_;  // by slot; -1 = none yet
};

}  // namespace hels
