// The CUDA driver as far as device_partition.h uses it: one device of 20 multiprocessors that come in groups of 8, so
// that 4 are left over. A context fails to open when it would share a multiprocessor with another.
#include <cuda_runtime.h>

#include <cstring>
#include <set>

#include "base/cuda/driver_api.h"

#define HELS_FAKE extern "C" __attribute__((visibility("default")))

namespace {

using hels::cuda::driver::Resource;

constexpr int kInvalidValue = 1;
constexpr int kInvalidResource = 915;
constexpr unsigned kTotal = 20;
constexpr unsigned kUnit = 8;

struct Numbers {
  std::set<unsigned> numbers;
  int streams = 0;
};

std::set<unsigned> inUse;
int objects = 0;

Resource resource(unsigned first, unsigned count) {
  Resource made{};
  made.type = 1;
  std::memcpy(made.internal, &first, sizeof(first));
  made.multiprocessors.count = count;
  return made;
}

}  // namespace

HELS_FAKE int helsFakeObjects() { return objects; }
HELS_FAKE int cuDriverGetVersion(int* version) {
  *version = 12060;
  return 0;
}
HELS_FAKE int cuGetErrorString(int status, const char** text) {
  *text = status == kInvalidResource ? "invalid resource configuration" : "fake error";
  return 0;
}
HELS_FAKE int cuInit(unsigned) { return 0; }
HELS_FAKE int cuDeviceGet(int* device, int ordinal) {
  *device = 7 + ordinal;
  return ordinal == 0 ? 0 : 101;
}
HELS_FAKE int cuDeviceGetDevResource(int device, Resource* whole, int type) {
  if (device != 7 || type != 1) return kInvalidValue;
  *whole = resource(0, kTotal);
  return 0;
}
HELS_FAKE int cuDevSmResourceSplitByCount(Resource* groups, unsigned* count, const Resource* whole, Resource* rest,
                                          unsigned flags, unsigned groupMin) {
  if (flags != 0 || groupMin != 1 || whole->multiprocessors.count != kTotal) return kInvalidValue;
  constexpr unsigned kGroups = kTotal / kUnit;
  if (groups != nullptr) {
    if (*count < kGroups) return kInvalidValue;
    for (unsigned group = 0; group < kGroups; ++group) groups[group] = resource(group * kUnit, kUnit);
    if (rest != nullptr) *rest = resource(kGroups * kUnit, kTotal - kGroups * kUnit);
  }
  *count = kGroups;
  return 0;
}
HELS_FAKE int cuDevResourceGenerateDesc(Numbers** description, Resource* resources, unsigned count) {
  static Numbers described;
  described = {};
  for (unsigned i = 0; i < count; ++i) {
    unsigned first = 0;
    std::memcpy(&first, resources[i].internal, sizeof(first));
    for (unsigned n = 0; n < resources[i].multiprocessors.count; ++n) described.numbers.insert(first + n);
  }
  *description = &described;
  return 0;
}
HELS_FAKE int cuGreenCtxCreate(Numbers** context, Numbers* description, int device, unsigned flags) {
  if (device != 7 || flags != 1) return kInvalidValue;
  for (const unsigned number : description->numbers) {
    if (inUse.contains(number)) return kInvalidResource;
  }
  inUse.insert(description->numbers.begin(), description->numbers.end());
  *context = new Numbers(*description);
  ++objects;
  return 0;
}
HELS_FAKE int cuGreenCtxDestroy(Numbers* context) {
  for (const unsigned number : context->numbers) inUse.erase(number);
  delete context;
  --objects;
  return 0;
}
HELS_FAKE int cuGreenCtxGetDevResource(Numbers* context, Resource* own, int) {
  *own = resource(0, static_cast<unsigned>(context->numbers.size()));
  return 0;
}
HELS_FAKE int cuGreenCtxStreamCreate(int** stream, Numbers*, unsigned flags, int priority) {
  if (flags != 1 || priority != 0) return kInvalidValue;
  *stream = new int(0);
  ++objects;
  return 0;
}
HELS_FAKE int cuStreamDestroy_v2(int* stream) {
  delete stream;
  --objects;
  return 0;
}
