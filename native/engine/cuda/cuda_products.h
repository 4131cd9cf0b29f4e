// The products of a step: with fixed bits (numerics `exact`, kernels/cuda/gemm.h), or by cuBLASLt (`fast`).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/cuda/cuda_scratch.h"
#include "engine/engine.h"
#include "kernels/cuda/gemm.h"

namespace hels::cuda {

class CublasLt;

inline constexpr size_t kProductWorkspaceAlignment = 256;

/// Of products with up to `rows` rows and `columns` columns.
size_t productWorkspaceBytes(Numerics numerics, int64_t rows, int64_t columns);

class CudaProducts {
 public:
  /// For the current device. Throws kDeviceMissing when `numerics` is fast and there is no cuBLASLt.
  /// `multiprocessors`: of the partition that the products run in; 0 = all.
  explicit CudaProducts(Numerics numerics, int multiprocessors = 0);
  ~CudaProducts();

  /// "chain/cuda-sm90", "cublasLt/13.1.0".
  const std::string& implementation() const { return implementation_; }

  /// y(rows, yStride) in f32 = x W^T. Of `scratch` the workspace is used.
  void multiply(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride, const CudaScratch& scratch,
                cudaStream_t stream);

  /// scratch.sums(rows, matrix.columns) = fixed point of x W^T, granule by granule, or of the whole product in fast
  /// numerics. *badRow as multiplyFixedPoint() says.
  void multiplyFixedPoint(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth, int32_t* badRow,
                          const CudaScratch& scratch, cudaStream_t stream);

 private:
  std::unique_ptr<CublasLt> library_;  // fast numerics only
  std::string implementation_;
};

}  // namespace hels::cuda
