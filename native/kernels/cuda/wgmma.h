// Instructions of compute capability 9.0 that products use: barriers in shared memory, copies of tiles by the copy
// engine, clusters of blocks, and products of a warpgroup (four warps). Only for code built for sm_90a.
#pragma once

#include <cuda.h>

#include "kernels/cuda/device.h"

namespace hels::cuda {

/// The copy engine's description of a matrix, as the driver makes it.
using TensorMap = CUtensorMap;

__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// A barrier that `arrivals` threads pass, and the bytes of copies that they announced.
__device__ __forceinline__ void initBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals) : "memory");
}
/// Makes barriers seen by the copy engine and by the other blocks of the cluster, after a barrier among those.
__device__ __forceinline__ void publishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void arriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
}
__device__ __forceinline__ void waitForPhase(uint64_t* barrier, int parity) {
  asm volatile(
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
      " @!done bra again;}" ::"r"(sharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ int rankInCluster() {
  int rank;
  asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// Until all threads of the cluster are here; they see each other's writes to shared memory.
__device__ __forceinline__ void syncCluster() {
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}
/// What lies in shared memory of block `rank` where `pointer` lies in this one's.
__device__ __forceinline__ uint32_t addressIn(const void* pointer, int rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(sharedAddress(pointer)), "r"(rank));
  return address;
}
__device__ __forceinline__ void loadFrom(float& value, uint32_t address) {
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
}
__device__ __forceinline__ void loadFrom(int64_t& value, uint32_t address) {
  asm volatile("ld.shared::cluster.s64 %0, [%1];" : "=l"(value) : "r"(address) : "memory");
}

/// Copies a box at (row, k) of the matrix to shared memory; its bytes arrive at the barrier. What lies outside of the
/// matrix arrives as zeros.
__device__ __forceinline__ void copyBox(void* target, const TensorMap* matrix, int k, int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          sharedAddress(target)),
      "l"(matrix), "r"(sharedAddress(barrier)), "r"(k), "r"(row)
      : "memory");
}

/// Registers of each thread of the warpgroup from here on.
template <int count>
__device__ __forceinline__ void giveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ __forceinline__ void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

/// Until `threads` threads are at the block's barrier of that number (1 to 15).
__device__ __forceinline__ void syncThreads(int barrier, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// An operand in shared memory: rows of 128 bytes, 16-byte chunks exchanged as the copy engine's 128-byte swizzle does,
/// eight rows every 1024 bytes, each such group aligned to it; `address` is that of the first input of a row.
__device__ __forceinline__ uint64_t operandAt(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | uint64_t{1} << 16 | (address & 0x3FFFFU) / 16;
}

/// Around products: before the first, to end a group of them, and until at most `pending` groups are not done.
__device__ __forceinline__ void beginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void waitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
/// Keeps the compiler from moving reads and writes of sums across the place: it does not see that products run on.
template <int count>
__device__ __forceinline__ void holdSums(float (&sums)[count]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

#define HELS_SUMS4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define HELS_SUMS16(i) HELS_SUMS4(i), HELS_SUMS4((i) + 4), HELS_SUMS4((i) + 8), HELS_SUMS4((i) + 12)
#define HELS_NAMES16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define HELS_NAMES32 HELS_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HELS_NAMES64                                                                   \
  HELS_NAMES32                                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// d[...] and the operands' names after them: two descriptors and whether to add.
#define HELS_MULTIPLY_GROUP(rows, type, names, w, x, add, ...)                                                    \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " add ", 0; wgmma.mma_async.sync.aligned.m64n" rows "k16.f32." type \
               "." type " {" names "}, " w ", " x ", p, 1, 1, 0, 0;}"                                             \
               : __VA_ARGS__                                                                                      \
               : "l"(weights), "l"(inputs), "r"(static_cast<int>(adds)))

/// d += weights (64 columns, 16 inputs) inputs (rows, 16 inputs) of the warpgroup, in f32; without `adds`, d = that.
/// With g = lane / 4 and t = lane % 4, a lane of warp w holds for each 8 rows: columns 16w + g and 16w + g + 8 of rows
/// 2t and 2t + 1, in the order (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <DataType type>
__device__ __forceinline__ void multiplyGroup(float (&d)[16], uint64_t weights, uint64_t inputs, bool adds) {
  if constexpr (type == DataType::kBf16) {
    HELS_MULTIPLY_GROUP("32", "bf16", HELS_NAMES16, "%16", "%17", "%18", HELS_SUMS16(0));
  } else {
    HELS_MULTIPLY_GROUP("32", "f16", HELS_NAMES16, "%16", "%17", "%18", HELS_SUMS16(0));
  }
}
template <DataType type>
__device__ __forceinline__ void multiplyGroup(float (&d)[32], uint64_t weights, uint64_t inputs, bool adds) {
  if constexpr (type == DataType::kBf16) {
    HELS_MULTIPLY_GROUP("64", "bf16", HELS_NAMES32, "%32", "%33", "%34", HELS_SUMS16(0), HELS_SUMS16(16));
  } else {
    HELS_MULTIPLY_GROUP("64", "f16", HELS_NAMES32, "%32", "%33", "%34", HELS_SUMS16(0), HELS_SUMS16(16));
  }
}
template <DataType type>
__device__ __forceinline__ void multiplyGroup(float (&d)[64], uint64_t weights, uint64_t inputs, bool adds) {
  if constexpr (type == DataType::kBf16) {
    HELS_MULTIPLY_GROUP("128", "bf16", HELS_NAMES64, "%64", "%65", "%66", HELS_SUMS16(0), HELS_SUMS16(16),
                        HELS_SUMS16(32), HELS_SUMS16(48));
  } else {
    HELS_MULTIPLY_GROUP("128", "f16", HELS_NAMES64, "%64", "%65", "%66", HELS_SUMS16(0), HELS_SUMS16(16),
                        HELS_SUMS16(32), HELS_SUMS16(48));
  }
}

#undef HELS_MULTIPLY_GROUP
#undef HELS_NAMES16
#undef HELS_NAMES32
#undef HELS_NAMES64
#undef HELS_SUMS4
#undef HELS_SUMS16

}  // namespace hels::cuda
