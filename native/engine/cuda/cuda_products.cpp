#include "engine/cuda/cuda_products.h"

#include <algorithm>
#include <span>

#include "base/cuda/check.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

std::string architecture() {
  int device = 0;
  int major = 0;
  int minor = 0;
  check(cudaGetDevice(&device), "the current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return "sm" + std::to_string(major) + std::to_string(minor);
}

/// "cuBLASLt 13.1.0 (/usr/lib/...)" as "cublasLt/13.1.0".
std::string nameOf(const std::string& description) {
  const size_t begin = description.find(' ') + 1;
  return "cublasLt/" + description.substr(begin, description.find(' ', begin) - begin);
}

}  // namespace

size_t productWorkspaceBytes(Numerics numerics, int64_t rows, int64_t columns) {
  return numerics == Numerics::kExact ? multiplyWorkspaceBytes(rows, columns) : CublasLt::kWorkspaceBytes;
}

CudaProducts::CudaProducts(Numerics numerics, int multiprocessors) {
  if (numerics == Numerics::kExact) {
    implementation_ = "chain/cuda-" + architecture();
  } else {
    library_ = std::make_unique<CublasLt>(multiprocessors);
    implementation_ = nameOf(library_->describe());
  }
}

CudaProducts::~CudaProducts() = default;

void CudaProducts::multiply(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride,
                            const CudaScratch& scratch, cudaStream_t stream) {
  if (library_ == nullptr) return cuda::multiply(matrix, x, y, yStride, scratch.productWorkspace, stream);
  CublasProduct product;
  product.rows = x.rows;
  product.columns = matrix.columns;
  product.depth = matrix.depth;
  product.inputType = matrix.type;
  product.outputType = DataType::kF32;
  product.x = x.data;
  product.xStride = x.stride;
  product.weights = matrix.data;
  product.weightStride = matrix.depth;
  product.y = y;
  product.yStride = yStride;
  library_->multiply(product, std::span(scratch.productWorkspace, scratch.productWorkspaceBytes), stream);
}

void CudaProducts::multiplyFixedPoint(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth,
                                      int32_t* badRow, const CudaScratch& scratch, cudaStream_t stream) {
  if (library_ == nullptr || matrix.depth == 0) {
    return cuda::multiplyFixedPoint(matrix, x, granuleDepth, scratch.sums, matrix.columns, badRow, stream);
  }
  multiply(matrix, x, scratch.partials, matrix.columns, scratch, stream);
  fixedPointRows(scratch.partials, x.rows, matrix.columns, scratch.sums, badRow, stream);
}

}  // namespace hels::cuda
