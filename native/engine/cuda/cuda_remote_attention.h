// Attention over lent KV on GPUs (cuda_remote_plan.h), by way of the host: the messages of both exchanges of a layer
// are copied from and to page-locked memory. The owner's rows attend to the chunks that it has while the holders attend
// to theirs; all parts are merged in ascending order, so the bits are those of KV that lies at home.
//
// A rank's own attention is on its stream while the host exchanges: as soon as its queries have left, or, where an
// owner waits for what it holds, once that is sent.
#pragma once

#include "base/cuda/buffer.h"
#include "engine/arena.h"
#include "engine/collective.h"
#include "engine/cuda/cuda_collective.h"
#include "engine/cuda/cuda_remote_plan.h"

namespace hels::cuda {

/// On the device, for the largest turn; null where this rank has no use for it.
struct RemoteScratch {
  std::byte* elsewhere = nullptr;    // (stepTokensMax, 2, groups, headDim): keys and values of own heads to be sent
  std::byte* heldRows = nullptr;     // the same of a holder's owner, by message
  std::byte* heldQueries = nullptr;  // (tokens, query heads, headDim)
  AttentionParts ownParts;           // slots are the step's
  AttentionParts heldParts;
  std::byte* message = nullptr;  // of parts
  std::byte* tables = nullptr;
};

/// What remote attention takes beside the KV that is held.
struct RemoteBytes {
  size_t device = 0;
  size_t host = 0;  // page-locked
};

RemoteBytes remoteBytesOf(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options);

class CudaRemoteAttention {
 public:
  /// `heldKv` has kvBytesOf(homes).loans bytes. Takes what remoteBytesOf() says.
  CudaRemoteAttention(const ModelSpec& model, const EngineOptions& options, const KvHomes& homes, std::byte* heldKv,
                      Collective& exchange, CudaCollective& collective);

  /// Plans a step and enqueues the copy of its tables; the stream has ended what came before.
  void begin(const TokenBatch& tokens, const StepShape& shape, cudaStream_t stream);
  /// CudaRemotePlan::limitTurns().
  void limitTurns(int64_t tokens) { plan_.limitTurns(tokens); }
  bool active(const AttentionModel& model) const { return plan_.active(model.window); }
  /// For HeadPreparation.
  void* elsewhere() const { return scratch_.elsewhere; }
  int64_t elsewhereStride() const;

  /// attend() of `batch`, the step's, whose tables have -1 for what is lent; `own` may have no groups. Throws what an
  /// exchange and CudaCollective::synchronize() throw.
  void attend(int64_t layer, const AttentionModel& model, const DeviceKv& own, const DeviceBatch& batch,
              const std::byte* queries, std::byte* output, int64_t stride, std::byte* workspace, cudaStream_t stream);

 private:
  struct Rows;

  void run(const RemoteTurn& turn, int64_t layer, const AttentionModel& model, const Rows& rows, cudaStream_t stream);
  bool holds(const RemoteTurn& turn) const;
  void attendHere(const RemoteTurn& turn, const AttentionModel& model, const Rows& rows, cudaStream_t stream);
  void copyQueries(const RemoteTurn& turn, const Rows& rows, cudaStream_t stream);
  void exchangeQueries(const RemoteTurn& turn);
  void attendForOwners(const RemoteTurn& turn, int64_t layer, const AttentionModel& model, cudaStream_t stream);
  void takeParts(const RemoteTurn& turn, cudaStream_t stream);
  DeviceBatch batchOf(const RemoteTurn& turn, const int32_t* blockTables) const;
  DeviceBatch ownBatchOf(const RemoteTurn& turn, const Rows& rows) const;
  PartsMessage messageOf(const RemoteTraffic& traffic) const;
  void layOut(const RemotePlan& plan, bool second);
  template <typename Element>
  const Element* table(size_t offset) const {
    return reinterpret_cast<const Element*>(scratch_.tables + offset);
  }

  const ModelSpec& model_;
  const KvHomes& homes_;
  Collective& exchange_;
  CudaCollective& collective_;
  const std::vector<HeldKv> held_;
  CudaRemotePlan plan_;
  const DeviceBuffer scratchBuffer_;
  const PinnedBuffer send_;
  const PinnedBuffer receive_;
  const PinnedBuffer hostTables_;
  RemoteScratch scratch_;
  StepShape shape_;
  std::vector<ExchangePart> parts_;         // of the exchange that is prepared, by rank
  std::vector<std::byte*> outgoing_;        // what parts_ sends, to be filled in
  std::vector<const std::byte*> incoming_;  // by traffic: what came in exchange 1
};

}  // namespace hels::cuda
