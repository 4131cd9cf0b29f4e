// The host's side of kernels that use wgmma.h: descriptions of matrices for the copy engine, and launches of clusters.
#pragma once

#include <cuda.h>

#include <string>

#include "base/cuda/shared_memory.h"
#include "base/error.h"
#include "kernels/cuda/wgmma.h"

namespace hels::cuda {

using EncodeTensorMap = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                     const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                     CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's function that makes tensor maps, or null where the driver has none.
inline EncodeTensorMap encodeTensorMap() {
  static const EncodeTensorMap encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    const cudaError_t code =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t code = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<EncodeTensorMap>(function);
  }();
  return encode;
}

/// Describes (rows, depth) of 16-bit values, rows `stride` values apart, for boxes of boxRows x 64 values that arrive
/// as rows of 128 bytes with the 128-byte swizzle. Data and rows are 16-byte aligned. Throws kInternal when the driver
/// refuses.
inline TensorMap makeTensorMap(const uint16_t* data, int64_t rows, int64_t depth, int64_t stride, int boxRows) {
  TensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * sizeof(uint16_t)};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(boxRows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult code =
      encodeTensorMap()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<uint16_t*>(data), sizes, strides, box,
                        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(code == CUDA_SUCCESS, ErrorCode::kInternal,
          "tensor map of " + std::to_string(rows) + " x " + std::to_string(depth) + ": driver error " +
              std::to_string(static_cast<int>(code)));
  return map;
}

/// Starts `kernel` in clusters of `cluster` blocks; like launchEarly(), it may start before the one in front has ended.
template <typename... Parameters, typename... Arguments>
void launchCluster(void (*kernel)(Parameters...), dim3 grid, dim3 cluster, dim3 block, size_t sharedBytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  allowSharedMemory(reinterpret_cast<const void*>(kernel), sharedBytes);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = cluster.x;
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch of a kernel");
}

}  // namespace hels::cuda
