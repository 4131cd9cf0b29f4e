// The part of the CUDA driver's C interface that the runtime does not cover, declared by ourselves and looked up in the
// driver's library: older toolkits have no header for it and older drivers not the functions. Types: libcuda of 12.5.
#pragma once

#include <cuda_runtime.h>

#include "base/cuda/dynamic_library.h"

namespace hels::cuda::driver {

using Status = int;  // 0 = success
constexpr Status kSuccess = 0;
using Device = int;

constexpr int kMultiprocessorResource = 1;
constexpr unsigned kDefaultStream = 1;      // of cuGreenCtxCreate: required
constexpr unsigned kNonBlockingStream = 1;  // of cuGreenCtxStreamCreate: required

struct MultiprocessorResource {
  unsigned count;
  unsigned partitionMin;
  unsigned alignment;
};
/// Made by the driver and given back to it; copies are as good.
struct Resource {
  int type;
  unsigned char internal[92];
  union {
    MultiprocessorResource multiprocessors;
    unsigned char space[48];
  };
};
static_assert(sizeof(Resource) == 144);

struct ResourceDescription;
struct GreenContext;

struct Api {
  explicit Api(const DynamicLibrary& library)
      : getErrorString(library.function<Status(Status, const char**)>("cuGetErrorString")),
        initialize(library.function<Status(unsigned)>("cuInit")),
        deviceGet(library.function<Status(Device*, int)>("cuDeviceGet")),
        getDeviceResource(library.function<Status(Device, Resource*, int)>("cuDeviceGetDevResource")),
        split(library.function<Status(Resource*, unsigned*, const Resource*, Resource*, unsigned, unsigned)>(
            "cuDevSmResourceSplitByCount")),
        describe(library.function<Status(ResourceDescription**, Resource*, unsigned)>("cuDevResourceGenerateDesc")),
        contextCreate(
            library.function<Status(GreenContext**, ResourceDescription*, Device, unsigned)>("cuGreenCtxCreate")),
        contextDestroy(library.function<Status(GreenContext*)>("cuGreenCtxDestroy")),
        getContextResource(library.function<Status(GreenContext*, Resource*, int)>("cuGreenCtxGetDevResource")),
        streamCreate(library.function<Status(cudaStream_t*, GreenContext*, unsigned, int)>("cuGreenCtxStreamCreate")),
        streamDestroy(library.function<Status(cudaStream_t)>("cuStreamDestroy_v2")) {}

  Status (*getErrorString)(Status, const char** text);
  Status (*initialize)(unsigned flags);
  Status (*deviceGet)(Device*, int ordinal);
  Status (*getDeviceResource)(Device, Resource*, int type);
  Status (*split)(Resource* groups, unsigned* count, const Resource* whole, Resource* rest, unsigned flags,
                  unsigned groupMin);
  Status (*describe)(ResourceDescription**, Resource*, unsigned count);
  Status (*contextCreate)(GreenContext**, ResourceDescription*, Device, unsigned flags);
  Status (*contextDestroy)(GreenContext*);
  Status (*getContextResource)(GreenContext*, Resource*, int type);
  Status (*streamCreate)(cudaStream_t*, GreenContext*, unsigned flags, int priority);
  Status (*streamDestroy)(cudaStream_t);
};

}  // namespace hels::cuda::driver
