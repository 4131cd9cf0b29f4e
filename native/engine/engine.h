// One rank's engine: its slices of the weights, its KV blocks, and the forward step it runs in lock-step with the other
// ranks. Not thread-safe: one thread owns an engine (engine_thread.h gives it that thread); only abort() may come from
// another.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "kv/kv_homes.h"
#include "model/model_spec.h"
#include "model/weight_block.h"
#include "model/weight_source.h"
#include "shard/shard_spec.h"

namespace hels {

namespace cuda {
class DeviceCommunicator;
}

enum class Numerics : uint8_t { kExact, kFast };

struct EngineOptions {
  std::string device = "cpu";  // or "cuda:N": GPU N of this process
  int multiprocessors = 0;     // of a GPU, when the rank is to use fewer than it has (a partition); 0 = all
  int threads = 1;
  double speed = 1.0;        // < 1 emulates a slower device: each kernel's measured wall time is stretched by 1/speed
  uint64_t memoryBytes = 0;  // budget for weights, KV and scratch; 0 = not limited
  Numerics numerics = Numerics::kExact;
  int64_t kvBlockTokens = 16;
  int64_t kvBlocks = 0;                   // addresses that sequences run from, [0, kvBlocks)
  int64_t kvParkedBlocks = 0;             // addresses from kvBlocks on that only moves reach
  std::optional<int64_t> kvDeviceBlocks;  // addresses that lie on this rank's device; none = kvBlocks
  std::vector<KvLoan> kvLoans;            // of all ranks
  int64_t stepTokensMax = 512;            // tokens of one step, all sequences together
  int64_t sequencesMax = 256;             // slots
  std::optional<Corruption> corruption;
};

struct SamplingParameters {
  float temperature = 0.0F;  // 0 = greedy
  float topP = 1.0F;         // 1 = off
  int32_t topK = 0;          // 0 = off
  uint64_t seed = 0;
  int32_t logprobs = -1;  // -1 = none; n = logprob of the sampled token and of the n most likely
};

/// One sequence's part of a step: tokens at positions [startPosition, startPosition + tokens).
struct SequenceStep {
  int32_t slot = 0;          // < sequencesMax; remembers the token last sampled for it
  bool takeSampled = false;  // the single input token is the one last sampled for `slot`; tokens is empty
  std::vector<int32_t> tokens;
  int64_t startPosition = 0;
  std::vector<int32_t>
      blockTable;  // covers positions [0, startPosition + count); full blocks before startPosition may be shared
  std::optional<SamplingParameters> sampling;  // sample from the last token's logits
  std::vector<int32_t> bannedTokens;           // that is none of these
  bool returnLogits = false;                   // return this rank's logits of every token (its vocabulary rows)
};

struct StepBatch {
  std::vector<SequenceStep> sequences;  // may be empty when there are moves
  std::vector<KvMove> kvMoves;          // done before anything is computed; no address twice
  std::chrono::nanoseconds collectiveDeadline{0};
};

struct TokenLogprob {
  int32_t tokenId = 0;
  float logprob = 0.0F;
};

struct SampledToken {
  int32_t slot = 0;
  int32_t tokenId = 0;
  float logprob = 0.0F;  // 0 unless logprobs were asked for
  std::vector<TokenLogprob> topLogprobs;
};

struct StepResult {
  std::vector<SampledToken> sampled;  // equal on every rank
  std::vector<float> logits;          // (tokens with returnLogits in batch order, vocabRows of this rank)
  double computeSeconds = 0;          // kernels, emulated stretch included
  double collectiveSeconds = 0;       // sums, waiting for peers included
  double moveSeconds = 0;             // KV moves; not what went on beside a GPU's kernels
  double remoteSeconds = 0;  // exchanges of remote attention; these two without waiting where ranks share memory
  double totalSeconds = 0;   // of the whole step, waiting included
};

/// How KV of the plan before comes to the ranks that own its heads now; every rank is told the same.
struct KvMigration {
  std::vector<Range> previousHeadGroups;  // by rank: the head groups whose KV it kept; empty: none
  std::vector<Range> headGroups;          // by rank, now
  std::vector<KvLoan> previousLoans;      // of the plan before, by the numbers of the ranks now
  std::vector<Range> blocks;              // runnable addresses in use, ascending and apart
  std::vector<KvMove> parked;             // parked blocks, from an address of the plan before to one of the next
  std::chrono::nanoseconds deadline{0};   // of each exchange; 0 = that of a step that names none
};

struct KvMigrationResult {
  double seconds = 0;
  uint64_t bytesReceived = 0;  // from other ranks
};

struct EngineReport {
  uint64_t weightBytesLoaded = 0;      // bytes of the files' tensors this rank read: its slices and what is replicated
  uint64_t weightBytesReplicated = 0;  // of these, what every rank holds
  uint64_t weightBytesAdopted = 0;     // bytes of the files' tensors it has from the engine before, without reading
  uint64_t weightBytesResident = 0;
  uint64_t kvBytes = 0;      // of this rank's heads, on its device
  uint64_t kvHostBytes = 0;  // of this rank's heads, in host memory
  uint64_t kvLoanBytes = 0;  // of the heads of ranks that borrow room here
  uint64_t scratchBytes = 0;
  bool kvKept = false;         // KV of the engine before is here, for migrateKv()
  bool kvLoansKept = false;    // and all that it held for other ranks
  uint64_t residentBytes = 0;  // of the device's memory, taken now by all of these; KV that was never used takes none
  uint64_t allReduceCount = 0;
  uint64_t allReduceBytes = 0;
  uint64_t exchangeCount = 0;
  uint64_t exchangeBytes = 0;  // sent and received
  double moveSeconds = 0;      // of all steps, as in StepResult
  double remoteSeconds = 0;
  bool corrupted = false;   // whether this rank loaded the byte of EngineOptions::corruption
  std::string fingerprint;  // equal fingerprints promise equal bits
  std::string gemmImplementation;
  std::string transport;  // how the ranks reach each other, as whoever connected them knows; empty without a group
};

class Engine {
 public:
  /// Loads this rank's slices and runs the self-check. `previous`, the engine of the plan before with the same model
  /// files, ends, whether this succeeds or not: on the same device the new one takes over the weights of unchanged
  /// ranges, and, if it fits beside its own, the KV; the rest is free before anything is taken. Throws kModelInvalid,
  /// kShapeInvalid, kMemoryExceeded, and for a GPU kDeviceMissing and kDeviceLost.
  static std::unique_ptr<Engine> load(const ModelSpec& model, const ShardSpec& shard,
                                      std::shared_ptr<WeightSource> weights, const EngineOptions& options,
                                      std::unique_ptr<Engine> previous = nullptr);
  virtual ~Engine() = default;

  /// The ranks of this epoch. Needed before step() unless shard.ranks == 1.
  virtual void connect(std::shared_ptr<Communicator> communicator) = 0;
  /// The same with sums of device memory. Throws kShapeInvalid from an engine that is not on a GPU.
  virtual void connectDevice(std::shared_ptr<cuda::DeviceCommunicator> communicator);
  /// Beside connectDevice(): how migrateKv() and steps over lent KV reach the other ranks. Throws kShapeInvalid
  /// likewise.
  virtual void connectExchange(std::shared_ptr<Communicator> communicator);
  /// After connect() and before the first step: KV of the plan before moves to the ranks that own its heads now; bits
  /// stay. Throws kShapeInvalid, before anything moves, and what an exchange throws; the engine is of no use then.
  virtual KvMigrationResult migrateKv(const KvMigration& migration) = 0;
  /// Frees what was kept for migrateKv(); a step does so too.
  virtual void dropPreviousKv() {}
  /// Runs one forward step. On a throw KV and slots of the batch's sequences are undefined; the engine stays usable
  /// only for kShapeInvalid (checked before any work).
  virtual StepResult step(const StepBatch& batch) = 0;
  virtual EngineReport report() const = 0;
  /// From any thread.
  virtual void abort() noexcept = 0;
};

/// One point of the profiling grid: a step of `tokens` tokens attending to `contextTokens` in sum, on a device that
/// would own these shares of every layer.
struct ProfilePoint {
  bool prefill = false;
  int64_t tokens = 1;
  int64_t contextTokens = 1;
  int64_t headGroups = 0;
  int64_t ffnColumns = 0;
  int64_t vocabRows = 0;
  /// A mixed step: beside the decode tokens above, one prefill chunk of so many tokens that attend to so many.
  int64_t chunkTokens = 0;
  int64_t chunkContextTokens = 0;
};

/// Seconds of one step at `point`, all layers: lower quartile over `repetitions` of real kernels on `layers` layers
/// with made-up weights, scaled to model.layers; the emulated stretch included, collectives not. Fewer repetitions, but
/// at least one, when they take more than `secondsMax`.
double profileStep(const ModelSpec& model, const EngineOptions& options, const ProfilePoint& point, int repetitions,
                   double secondsMax = std::numeric_limits<double>::infinity());

/// Bytes a second between the memory of `device` and that of its host: what KV that returns from there pays. On a CPU
/// one thread copies from memory to memory; on a GPU the slower direction of the link counts. Throws kShapeInvalid, and
/// for a GPU kMemoryExceeded, kDeviceMissing and kDeviceLost.
double copyBandwidth(const std::string& device);

}  // namespace hels
