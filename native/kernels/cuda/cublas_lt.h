// Matrix products by cuBLASLt, for numerics `fast`: y(rows, columns) = x(rows, depth) W(columns, depth)^T.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cuda/dynamic_library.h"
#include "base/data_type.h"

namespace hels::cuda {

/// One product; all matrices are row-major, strides are elements from one row to the next.
struct CublasProduct {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
  DataType inputType = DataType::kBf16;   // of x and the weights
  DataType outputType = DataType::kBf16;  // the input type or kF32; sums are f32 in any case
  const void* x = nullptr;                // (rows, depth)
  int64_t xStride = 0;
  const void* weights = nullptr;  // (columns, depth)
  int64_t weightStride = 0;
  void* y = nullptr;  // (rows, columns)
  int64_t yStride = 0;
  bool accumulate = false;  // y += instead of y =
};

/// Products of one device and one thread at a time. An algorithm is chosen by the library's heuristic when a shape
/// first comes and then kept, so equal calls of one object give equal bits; which one it is differs between devices
/// and library versions, and between numbers of rows.
class CublasLt {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  /// For the current device. `multiprocessors`: how many a product's stream may use when fewer than the device has
  /// (device_partition.h), 0 = all. Throws kDeviceMissing when the library is missing or does not start.
  explicit CublasLt(int multiprocessors = 0, const LibrarySearch& search = LibrarySearch::ofHost());
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Enqueues the product. `workspace`: device memory, 256-byte aligned, at most kWorkspaceBytes of it are used, by one
  /// stream at a time. May be captured into a graph. rows or columns 0: nothing happens; depth 0: zeros. Throws
  /// kShapeInvalid, kMemoryExceeded, kDeviceLost, kInternal.
  void multiply(const CublasProduct& product, std::span<std::byte> workspace, cudaStream_t stream);

  /// Measures the library's best candidates on this very product (whose y is overwritten) and keeps the fastest for its
  /// shape. Waits for the device; not while capturing. Returns its seconds.
  double tune(const CublasProduct& product, std::span<std::byte> workspace, cudaStream_t stream);

  /// The names of the library that can be used, best first.
  static std::vector<std::string> sonames();
  /// "cuBLASLt 13.1.0 (/usr/lib/.../libcublasLt.so.13)"
  std::string describe() const;

 private:
  class Library;
  struct Shape;
  class Plan;

  Plan& plan(const CublasProduct& product, size_t workspaceBytes);

  std::unique_ptr<Library> library_;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace hels::cuda
