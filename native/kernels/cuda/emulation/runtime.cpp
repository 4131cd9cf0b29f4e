// The CUDA runtime on a processor: memory is the heap, streams run at once, a captured stream records its work.
#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};
struct EmulatedStream {
  EmulatedGraph* capture = nullptr;
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point time;
};

namespace {

std::atomic<size_t> memoryBytes{size_t{1} << 30};
std::atomic<size_t> pinnedBytesMax{std::numeric_limits<size_t>::max()};
std::atomic<bool> machineCode{true};
std::atomic<size_t> sharedBytesMax{hels::emulation::kSharedBytesMax};
std::mutex mutex;
std::map<void*, size_t> allocations;
size_t usedBytes = 0;
std::vector<std::function<void()>> fills;  // of the default stream, which nothing has waited for
std::map<const void*, int> sharedBytes;
thread_local cudaError_t lastError = cudaSuccess;

cudaError_t fail(cudaError_t error) {
  lastError = error;
  return error;
}

/// The default stream catches up.
void runFills() {
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard lock(mutex);
    waiting.swap(fills);
  }
  for (const auto& fill : waiting) fill();
}

}  // namespace

namespace hels::emulation {

void submit(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr) runFills();
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->work.push_back(std::move(work));
  } else {
    work();
  }
}

void setMemoryBytes(size_t bytes) { memoryBytes = bytes; }
void setPinnedBytesMax(size_t bytes) { pinnedBytesMax = bytes; }
void setMachineCode(bool present) { machineCode = present; }
void setSharedBytesMax(size_t bytes) { sharedBytesMax = bytes; }
cudaError_t launchError(size_t launchBytes) {
  return launchBytes <= sharedBytesMax ? cudaSuccess : fail(cudaErrorInvalidValue);
}

int sharedBytesOf(const void* kernel) {
  const std::lock_guard lock(mutex);
  return sharedBytes[kernel];
}

}  // namespace hels::emulation

using hels::emulation::submit;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "emulated error";
  }
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorEmulated";
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = lastError;
  lastError = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return lastError; }
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return fail(cudaErrorInvalidDevice);
  *properties = {"emulated on the processor", memoryBytes, 8, 0, 4, 1 << 20, sharedBytesMax};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMaxPitch:
      *value = std::numeric_limits<int>::max();
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* freeBytes, size_t* totalBytes) {
  std::lock_guard lock(mutex);
  *totalBytes = memoryBytes;
  *freeBytes = *totalBytes > usedBytes ? *totalBytes - usedBytes : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  runFills();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  std::lock_guard lock(mutex);
  if (usedBytes + bytes > memoryBytes) return fail(cudaErrorMemoryAllocation);
  *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*pointer == nullptr) return fail(cudaErrorMemoryAllocation);
  std::memset(*pointer, 0xA5, bytes);  // nothing may rely on zeros
  allocations[*pointer] = bytes;
  usedBytes += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  runFills();
  std::lock_guard lock(mutex);
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) return pointer == nullptr ? cudaSuccess : fail(cudaErrorInvalidValue);
  usedBytes -= found->second;
  allocations.erase(found);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (bytes > pinnedBytesMax) return fail(cudaErrorMemoryAllocation);
  *pointer = std::malloc(bytes);
  return *pointer != nullptr ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  submit(stream, [=] { std::memmove(target, source, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(target, source, bytes, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* target, size_t targetPitch, const void* source, size_t sourcePitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  submit(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<std::byte*>(target) + row * targetPitch,
                  static_cast<const std::byte*>(source) + row * sourcePitch, width);
    }
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  submit(stream, [=] { std::memset(pointer, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  const std::lock_guard lock(mutex);
  fills.push_back([=] { std::memset(pointer, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  submit(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memset(static_cast<std::byte*>(pointer) + row * pitch, value, width);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) runFills();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  submit(stream, [=] { event->time = std::chrono::steady_clock::now(); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture != nullptr) return fail(cudaErrorInvalidValue);
  stream->capture = new EmulatedGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || stream->capture == nullptr) return fail(cudaErrorInvalidValue);
  *graph = stream->capture;
  stream->capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const auto& work : executable->work) submit(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute /*attribute*/, int value) {
  if (static_cast<size_t>(value) > sharedBytesMax) return fail(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  sharedBytes[kernel] = value;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* /*kernel*/) {
  *attributes = {80};
  return machineCode ? cudaSuccess : fail(cudaErrorNoKernelImageForDevice);
}
