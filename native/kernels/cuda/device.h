// What kernels use of the machine beyond CUDA C++ itself: conversions, tensor-core products, asynchronous copies, and
// the launch. On processors before compute capability 8.0 (P100, V100, T4) tensor-core products and asynchronous copies
// are done in plain code; under emulation (kernels/cuda/emulation) everything is.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/cuda/check.h"
#include "base/cuda/shared_memory.h"
#ifndef HELS_CUDA_EMULATION
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#include "base/data_type.h"

#ifdef HELS_CUDA_EMULATION
/// The dynamic shared memory of the block, 16-byte aligned.
#define HELS_DYNAMIC_SHARED(Type, name) Type* name = static_cast<Type*>(::hels::emulation::dynamicShared())
#else
#define HELS_DYNAMIC_SHARED(Type, name)                       \
  extern __shared__ __align__(16) unsigned char helsShared[]; \
  Type* name = reinterpret_cast<Type*>(helsShared)
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define HELS_TENSOR_CORES 1
#endif

namespace hels::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;

/// Shared memory that a block of the current device can have: 227 KiB on an H100, 163 on an A100, 99 on a 3090 or 4090,
/// 64 on a T4, 48 on a P100.
size_t sharedBytesMax();

#ifndef HELS_CUDA_EMULATION
/// Whether the current device lets a kernel start before the one in front of it has ended (compute capability 9.0).
inline bool startsEarly() {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  return major >= 9;
}
#endif

template <typename... Parameters, typename... Arguments>
void launchKernel(bool early, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes,
                  cudaStream_t stream, Arguments... arguments) {
#ifdef HELS_CUDA_EMULATION
  (void)early;
  check(emulation::launchError(sharedBytes), "launch of a kernel");
  emulation::submit(stream, [=] {
    emulation::runKernel(grid, block, sharedBytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
  });
#else
  // More than 48 KiB, those of the kernel itself included, must be allowed.
  if (sharedBytes > size_t{24} * 1024) allowSharedMemory(reinterpret_cast<const void*>(kernel), sharedBytes);
  static const bool possible = startsEarly();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early && possible ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch of a kernel");
#endif
}

/// Starts `kernel` on `stream`. Throws what the launch reports; errors inside of the kernel come with a later check.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream,
            Arguments... arguments) {
  launchKernel(false, kernel, grid, block, sharedBytes, stream, arguments...);
}

/// The same for a kernel that may start while the one in front of it still runs: it calls waitForPrevious() before it
/// touches what another kernel reads or writes.
template <typename... Parameters, typename... Arguments>
void launchEarly(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream,
                 Arguments... arguments) {
  launchKernel(true, kernel, grid, block, sharedBytes, stream, arguments...);
}

/// In a kernel that may have started early: until all kernels in front of it have ended and what they wrote is seen.
__device__ __forceinline__ void waitForPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel of the stream start early, as soon as blocks of this one leave room for it.
__device__ __forceinline__ void letNextStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ float widen(DataType type, uint16_t bits) {
#ifdef HELS_CUDA_EMULATION
  return type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits);
#else
  return type == DataType::kBf16 ? __uint_as_float(static_cast<unsigned>(bits) << 16)
                                 : __half2float(__ushort_as_half(bits));
#endif
}

/// Rounds to nearest even.
__device__ __forceinline__ uint16_t narrow(DataType type, float value) {
#ifdef HELS_CUDA_EMULATION
  return type == DataType::kBf16 ? f32ToBf16(value) : f32ToF16(value);
#else
  return type == DataType::kBf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value))
                                 : __half_as_ushort(__float2half_rn(value));
#endif
}

/// Two 16-bit values as one register, `low` first in memory.
__device__ __forceinline__ uint32_t narrowPair(DataType type, float low, float high) {
  return static_cast<uint32_t>(narrow(type, low)) | static_cast<uint32_t>(narrow(type, high)) << 16;
}

/// d += a(16, 16) b(16, 8) of the warp, in f32. With g = lane / 4 and t = lane % 4, a lane holds of a: {rows g, g + 8,
/// g, g + 8} x columns {2t, 2t, 2t + 8, 2t + 8} and the next; of b: rows {2t, 2t + 8} and the next of column g; of d:
/// row g columns 2t and 2t + 1, then row g + 8.
template <DataType type>
__device__ __forceinline__ void multiplyTile(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(type != DataType::kF32);
#ifdef HELS_TENSOR_CORES
  if constexpr (type == DataType::kBf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
#ifdef HELS_CUDA_EMULATION
  struct Operands {
    uint32_t a[4], b[2];
  };
  Operands mine;
  for (int i = 0; i < 4; ++i) mine.a[i] = a[i];
  for (int i = 0; i < 2; ++i) mine.b[i] = b[i];
  const std::byte* all = emulation::exchange(&mine, sizeof(mine));
  const int lane = emulation::laneIndex();
#else
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#endif
  const int g = lane / 4;
  const int t = lane % 4;
  for (int half = 0; half < 2; ++half) {
    for (int from = 0; from < 4; ++from) {
#ifdef HELS_CUDA_EMULATION
      const auto rows = emulation::fromLane<Operands>(all, g * 4 + from);
      const uint32_t row0 = rows.a[2 * half];
      const uint32_t row8 = rows.a[2 * half + 1];
      const uint32_t column0 = emulation::fromLane<Operands>(all, 2 * t * 4 + from).b[half];
      const uint32_t column1 = emulation::fromLane<Operands>(all, (2 * t + 1) * 4 + from).b[half];
#else
      const uint32_t row0 = __shfl_sync(kAllLanes, a[2 * half], g * 4 + from);
      const uint32_t row8 = __shfl_sync(kAllLanes, a[2 * half + 1], g * 4 + from);
      const uint32_t column0 = __shfl_sync(kAllLanes, b[half], 2 * t * 4 + from);
      const uint32_t column1 = __shfl_sync(kAllLanes, b[half], (2 * t + 1) * 4 + from);
#endif
      for (int shift = 0; shift < 32; shift += 16) {
        const float x0 = widen(type, static_cast<uint16_t>(row0 >> shift));
        const float x8 = widen(type, static_cast<uint16_t>(row8 >> shift));
        const float w0 = widen(type, static_cast<uint16_t>(column0 >> shift));
        const float w1 = widen(type, static_cast<uint16_t>(column1 >> shift));
        d[0] = fmaf(x0, w0, d[0]);
        d[1] = fmaf(x0, w1, d[1]);
        d[2] = fmaf(x8, w0, d[2]);
        d[3] = fmaf(x8, w1, d[3]);
      }
    }
  }
#endif
}

/// Four 8x8 matrices of 16-bit values from shared memory, each transposed: lane i gives the address of row i % 8 (8
/// values, 16-byte aligned) of matrix i / 8; of matrix m a lane gets rows 2t and 2t + 1 of column g in result[m].
__device__ __forceinline__ void loadTransposed(uint32_t (&result)[4], const void* row) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address)
               : "memory");
#else
#ifdef HELS_CUDA_EMULATION
  const int lane = emulation::laneIndex();
#else
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#endif
  const auto address = reinterpret_cast<unsigned long long>(row);
  for (int m = 0; m < 4; ++m) {
    const auto low = __shfl_sync(kAllLanes, address, m * 8 + lane % 4 * 2);
    const auto high = __shfl_sync(kAllLanes, address, m * 8 + lane % 4 * 2 + 1);
    result[m] = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(low)[lane / 4]) |
                static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(high)[lane / 4]) << 16;
  }
#endif
}

/// Copies 16 bytes to shared memory; done after waitForCopies().
__device__ __forceinline__ void copyAsync16(void* target, const void* source) {
#ifdef HELS_TENSOR_CORES
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source) : "memory");
#else
  *static_cast<uint4*>(target) = *static_cast<const uint4*>(source);
#endif
}

/// The same, or zeros when not `valid`: `source` is then not read.
__device__ __forceinline__ void copyAsync16(void* target, const void* source, bool valid) {
#ifdef HELS_TENSOR_CORES
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(target) = valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
#endif
}

/// Ends a group of copies of this thread.
__device__ __forceinline__ void commitCopies() {
#ifdef HELS_TENSOR_CORES
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `pending` of this thread's groups are not done; other threads see them after a barrier.
template <int pending>
__device__ __forceinline__ void waitForCopies() {
#ifdef HELS_TENSOR_CORES
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

/// 16 bytes, or zeros when not `valid` (`source` is then not read).
__device__ __forceinline__ uint4 load16(const void* source, bool valid) {
#ifdef HELS_CUDA_EMULATION
  return valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
#else
  uint4 value;
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;"
      " @p ld.global.v4.u32 {%0,%1,%2,%3}, [%4];}"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(source), "r"(static_cast<int>(valid))
      : "memory");
  return value;
#endif
}

/// The same for what no kernel writes and what is read once: it may be read before waitForPrevious(), and should not
/// push other data out of the cache.
__device__ __forceinline__ uint4 loadOnce16(const void* source, bool valid) {
#ifdef HELS_CUDA_EMULATION
  return load16(source, valid);
#else
  uint4 value;
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;"
      " @p ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];}"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(source), "r"(static_cast<int>(valid)));
  return value;
#endif
}

}  // namespace hels::cuda
