// NCCL as far as nccl_communicator.h uses it, for ranks of one process whose device memory is the host's: groups form
// and sum when all ranks have come, and wait for ever when one does not.
#include <cuda_runtime.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define HELS_FAKE extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidUsage = 5;

struct UniqueId {
  char bytes[128];
};

struct Group {
  int ranks = 0;
  int present = 0;
  int came = 0;
  uint64_t sums = 0;
  std::vector<int64_t> total;
  std::vector<int64_t> result;
};
struct Communicator {
  std::shared_ptr<Group> group;
  bool aborted = false;
};

// Never destroyed: NCCL's background threads, and so this one's callers, may outlive the process's last statement.
auto& mutex = *new std::mutex;
auto& changed = *new std::condition_variable;
auto& groups = *new std::map<std::string, std::shared_ptr<Group>>;
auto& communicators = *new std::vector<std::unique_ptr<Communicator>>;  // kept: an aborted one may still be looked at
int ids = 0;
int asyncError = 0;
int ended = 0;

void logConnection() {
  const char* path = std::getenv("NCCL_DEBUG_FILE");
  static std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "w");  // open to the end, as NCCL's
  if (file == nullptr) return;
  std::fputs("host:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n", file);
  std::fflush(file);
}

}  // namespace

HELS_FAKE void helsFakeSetAsyncError(int status) { asyncError = status; }
HELS_FAKE int helsFakeEnded() {
  const std::lock_guard lock(mutex);
  return ended;
}

HELS_FAKE int ncclGetVersion(int* version) {
  *version = 22803;
  return kSuccess;
}
HELS_FAKE int ncclGetUniqueId(UniqueId* id) {
  const std::lock_guard lock(mutex);
  for (size_t i = 0; i < sizeof(id->bytes); ++i) id->bytes[i] = static_cast<char>(i * 37);
  std::memcpy(id->bytes, &++ids, sizeof(ids));
  return kSuccess;
}
HELS_FAKE int ncclCommInitRank(Communicator** communicator, int ranks, UniqueId id, int rank) {
  if (rank < 0 || rank >= ranks) return kInvalidUsage;
  std::unique_lock lock(mutex);
  std::shared_ptr<Group>& group = groups[std::string(id.bytes, sizeof(id.bytes))];
  if (group == nullptr) group = std::make_shared<Group>();
  group->ranks = ranks;
  ++group->present;
  logConnection();
  changed.notify_all();
  const std::shared_ptr<Group> own = group;
  changed.wait(lock, [&] { return own->present == own->ranks; });
  communicators.push_back(std::make_unique<Communicator>(Communicator{own, false}));
  *communicator = communicators.back().get();
  return kSuccess;
}
HELS_FAKE int ncclCommAbort(Communicator* communicator) {
  const std::lock_guard lock(mutex);
  communicator->aborted = true;
  ++ended;
  changed.notify_all();
  return kSuccess;
}
HELS_FAKE int ncclCommDestroy(Communicator*) {
  const std::lock_guard lock(mutex);
  ++ended;
  return kSuccess;
}
HELS_FAKE int ncclCommGetAsyncError(Communicator*, int* status) {
  *status = asyncError;
  return kSuccess;
}
HELS_FAKE const char* ncclGetErrorString(int status) { return status == 6 ? "remote process exited" : "fake error"; }
HELS_FAKE const char* ncclGetLastError(Communicator*) { return "the fake's own words"; }

HELS_FAKE int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation,
                            Communicator* communicator, cudaStream_t) {
  if (type != 4 || operation != 0) return kInvalidUsage;
  std::unique_lock lock(mutex);
  const std::shared_ptr<Group> group = communicator->group;
  const auto* values = static_cast<const int64_t*>(from);
  group->total.resize(count);
  for (size_t i = 0; i < count; ++i) group->total[i] += values[i];
  const uint64_t sum = group->sums;
  if (++group->came == group->ranks) {
    group->came = 0;
    ++group->sums;
    group->result = std::move(group->total);
    group->total = {};
    changed.notify_all();
  }
  changed.wait(lock, [&] { return group->sums != sum || communicator->aborted; });
  if (group->sums != sum) std::ranges::copy(group->result, static_cast<int64_t*>(to));
  return kSuccess;
}
