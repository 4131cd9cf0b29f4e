// The part of NCCL's C interface that is used here, declared by ourselves: building needs no header of it. Values and
// layouts are those of NCCL 2.13 and newer.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "base/cuda/dynamic_library.h"

namespace hels::cuda::nccl {

enum Status : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};
constexpr int kInt64 = 4;
constexpr int kSum = 0;

/// Passed by value.
struct UniqueId {
  char bytes[128];
};
static_assert(sizeof(UniqueId) == 128);
struct Communicator;

/// Every function that is called.
struct Api {
  explicit Api(const DynamicLibrary& library)
      : getVersion(library.function<Status(int*)>("ncclGetVersion")),
        getUniqueId(library.function<Status(UniqueId*)>("ncclGetUniqueId")),
        initRank(library.function<Status(Communicator**, int, UniqueId, int)>("ncclCommInitRank")),
        destroy(library.function<Status(Communicator*)>("ncclCommDestroy")),
        abort(library.function<Status(Communicator*)>("ncclCommAbort")),
        getAsyncError(library.function<Status(Communicator*, Status*)>("ncclCommGetAsyncError")),
        getErrorString(library.function<const char*(Status)>("ncclGetErrorString")),
        getLastError(library.function<const char*(Communicator*)>("ncclGetLastError")),
        allReduce(library.function<AllReduceSignature>("ncclAllReduce")) {}

  using AllReduceSignature = Status(const void* from, void* to, size_t count, int type, int operation, Communicator*,
                                    cudaStream_t);

  Status (*getVersion)(int*);
  Status (*getUniqueId)(UniqueId*);
  Status (*initRank)(Communicator**, int ranks, UniqueId, int rank);
  Status (*destroy)(Communicator*);
  Status (*abort)(Communicator*);
  Status (*getAsyncError)(Communicator*, Status*);
  const char* (*getErrorString)(Status);
  const char* (*getLastError)(Communicator*);
  AllReduceSignature* allReduce;
};

}  // namespace hels::cuda::nccl
