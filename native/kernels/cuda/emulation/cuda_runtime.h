// The part of the CUDA runtime and of CUDA C++ that Hels uses, on a processor: kernels are compiled as C++, each CUDA
// thread is a fiber, one block runs after the other, and device memory is the heap. For tests on machines without a
// GPU: indices, barriers, bounds and arithmetic are checked (with the address sanitizer where it is on); speed and the
// order of memory operations between blocks are not.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define HELS_CUDA_EMULATION 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// One thread of the host runs a block at a time, so what the thread shares, the block shares.
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace hels::emulation {

constexpr int kWarpThreads = 32;
constexpr size_t kExchangeBytes = 64;

/// What the running CUDA thread sees. Valid inside of a kernel only.
struct Position {
  uint3 threadIndex;
  uint3 blockIndex;
  dim3 blockSize;
  dim3 gridSize;
};
const Position& position();
int laneIndex();
void* dynamicShared();

/// Waits for all threads of the block, or of the warp, that have not returned.
void blockBarrier();
void warpBarrier();
/// Gives `value` to the other lanes of the warp and returns the values of all: valid until the next but one exchange.
const std::byte* exchange(const void* value, size_t sizeBytes);
template <typename T>
T fromLane(const std::byte* values, int lane) {
  T value;
  std::memcpy(&value, values + static_cast<size_t>(lane) * kExchangeBytes, sizeof(T));
  return value;
}

void runKernel(dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()>& thread);
/// Blocks of all kernels that the calling thread has run.
uint64_t blocksRun();

}  // namespace hels::emulation

#define threadIdx (::hels::emulation::position().threadIndex)
#define blockIdx (::hels::emulation::position().blockIndex)
#define blockDim (::hels::emulation::position().blockSize)
#define gridDim (::hels::emulation::position().gridSize)
constexpr int warpSize = hels::emulation::kWarpThreads;

inline void __syncthreads() { hels::emulation::blockBarrier(); }
inline void __syncwarp(unsigned = ~0U) { hels::emulation::warpBarrier(); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
void __nanosleep(unsigned nanoseconds);

template <typename T>
T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  const int base = hels::emulation::laneIndex() / width * width;
  return hels::emulation::fromLane<T>(hels::emulation::exchange(&value, sizeof(T)), base + lane % width);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return hels::emulation::fromLane<T>(hels::emulation::exchange(&value, sizeof(T)),
                                      hels::emulation::laneIndex() ^ mask);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = hels::emulation::laneIndex();
  const int from = lane % width + delta < width ? lane + delta : lane;
  return hels::emulation::fromLane<T>(hels::emulation::exchange(&value, sizeof(T)), from);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = hels::emulation::laneIndex();
  const int from = lane % width - delta >= 0 ? lane - delta : lane;
  return hels::emulation::fromLane<T>(hels::emulation::exchange(&value, sizeof(T)), from);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const std::byte* values = hels::emulation::exchange(&predicate, sizeof(predicate));
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (hels::emulation::fromLane<int>(values, lane) != 0) ballot |= 1U << lane;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
int __syncthreads_or(int predicate);

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
  } else {
    const T before = *address;  // blocks and threads of one launch never run at once
    *address = before + value;
    return before;
  }
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T before = *address;
  *address = std::min(before, value);
  return before;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T before = *address;
  *address = std::max(before, value);
  return before;
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline long long __double2ll_rn(double value) { return static_cast<long long>(std::nearbyint(value)); }
inline float rsqrtf(float value) { return 1.0F / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }
inline float __fdividef(float a, float b) { return a / b; }
template <typename T>
T __ldg(const T* address) {
  return *address;
}
using std::max;
using std::min;

// The runtime. Streams run what they are given at once; while one is captured, its work is recorded. cudaMemset alone
// is as late as it may be: until something waits for the default stream, or comes after it there.
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorECCUncorrectable = 214,
  cudaErrorInvalidPtx = 218,
  cudaErrorNvlinkUncorrectable = 220,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureWrongThread = 908,
  cudaErrorUnknown = 999
};
enum cudaMemcpyKind : int {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaFuncAttribute : int { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  int binaryVersion;
};
enum cudaStreamCaptureMode : int {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaDeviceAttr : int {
  cudaDevAttrMaxPitch = 11,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0,
                   cudaHostAllocDefault = 0;

struct EmulatedStream;
struct EmulatedEvent;
struct EmulatedGraph;
using cudaStream_t = EmulatedStream*;
using cudaEvent_t = EmulatedEvent*;
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount, l2CacheSize;
  size_t sharedMemPerBlockOptin;
};

namespace hels::emulation {
void submit(cudaStream_t stream, std::function<void()> work);
/// Limits what cudaMalloc gives in sum.
void setMemoryBytes(size_t bytes);
/// What cudaFuncSetAttribute() has last said of the kernel.
int sharedBytesOf(const void* kernel);
/// Limits what each cudaMallocHost gives.
void setPinnedBytesMax(size_t bytes);
constexpr size_t kSharedBytesMax = size_t{227} * 1024;  // an H100's
/// The dynamic shared memory that a block can have; at first kSharedBytesMax.
void setSharedBytesMax(size_t bytes);
/// Whether kernels have code that the device runs.
void setMachineCode(bool present);
/// What the launch of a kernel with so much dynamic shared memory reports.
cudaError_t launchError(size_t sharedBytes);
}  // namespace hels::emulation

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t* freeBytes, size_t* totalBytes);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMalloc(void** pointer, size_t bytes);
template <typename T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
template <typename T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* target, size_t targetPitch, const void* source, size_t sourcePitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void* pointer, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
