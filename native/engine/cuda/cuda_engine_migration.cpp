// What an engine on a GPU leaves to the next one, and how KV comes to it.
#include <utility>

#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/cuda_kv_pieces.h"
#include "engine/kv_migrator.h"

namespace hels::cuda {

void CudaEngine::connectExchange(std::shared_ptr<Communicator> communicator) {
  exchange_.connect(std::move(communicator));
}

CudaEngineRemains CudaEngine::remains() {
  CudaEngineRemains remains{model_, options_, weights_.regions(), std::nullopt};
  if (kvWhole_) remains.kv = CudaKeptKv{kvBuffer_, kvHostBuffer_, kv().shape, kvHomes_};
  return remains;
}

KvMigrationResult CudaEngine::migrateKv(const KvMigration& migration) {
  useDevice();
  std::optional<CudaKvPieces> pieces;
  KvSource source;
  if (previousKv_) {
    const auto& [memory, hostMemory, shape, homes] = *previousKv_;
    pieces.emplace(shape, CudaKvPlaces(homes, {shape, memory->data()}, hostMemory->data()), homes.headGroups.begin);
    source = {&*pieces, homes};
  }
  const KvSource* kept = previousKv_ ? &source : nullptr;
  validateKvMigration(migration, kvHomes_, model_.headGroups, kept);
  requireNothingLent(migration, kvHomes_, kept);
  exchange_.requireConnected();
  exchange_.setDeadline(deadlineOrDefault(migration.deadline));
  try {
    CudaKvPieces target(kv().shape, places(), kvHomes_.headGroups.begin);
    const KvMigrationResult result = KvMigrator(migration, kept, target, kvHomes_, exchange_).run();
    previousKv_.reset();
    kvWhole_ = true;
    return result;
  } catch (...) {
    previousKv_.reset();
    abort();  // the peers would wait for this rank until their deadline
    throw;
  }
}

void CudaEngine::dropPreviousKv() { previousKv_.reset(); }

}  // namespace hels::cuda
