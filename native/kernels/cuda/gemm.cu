// Chooses the kernel of a product. Every choice gives the same bits (gemm_parts.h).
#include <algorithm>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

/// Rows up to which the small tiles are used, and blocks below which a product of theirs is split over the depth: about
/// as many as the largest devices have multiprocessors.
constexpr int64_t kSplitRowsMax = 64;
constexpr int64_t kBlocksWanted = 132;
constexpr int64_t kSmallTileColumns = 64;

int64_t smallTileBlocks(int64_t columns) { return (columns + kSmallTileColumns - 1) / kSmallTileColumns; }

bool splitsInTwo(int64_t rows, int64_t columns) {
  return rows > kSkinnyRows && rows <= kSplitRowsMax && smallTileBlocks(columns) < kBlocksWanted;
}

ProductArguments argumentsOf(const DeviceMatrix& matrix, const DeviceRows& x) {
  ProductArguments arguments;
  arguments.w = reinterpret_cast<const uint16_t*>(matrix.data);
  arguments.x = static_cast<const uint16_t*>(x.data);
  arguments.xStride = x.stride;
  arguments.rows = static_cast<int>(x.rows);
  arguments.columns = static_cast<int>(matrix.columns);
  return arguments;
}

__global__ void addHalvesKernel(const float* halves, int64_t halfStride, int columns, float* y, int64_t yStride) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int64_t row = blockIdx.y;
  letNextStart();
  waitForPrevious();
  if (column >= columns) return;
  const float* low = halves + row * columns + column;
  y[row * yStride + column] = low[0] + low[halfStride];
}

}  // namespace

size_t multiplyWorkspaceBytes(int64_t rows, int64_t columns) {
  const int64_t splitRows = std::min(rows, kSplitRowsMax);
  const int64_t splitColumns = std::min(columns, kBlocksWanted * kSmallTileColumns);
  return static_cast<size_t>(2 * splitRows * splitColumns) * sizeof(float);
}

void multiply(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride, std::byte* workspace,
              cudaStream_t stream) {
  if (x.rows == 0 || matrix.columns == 0) return;
  if (matrix.type == DataType::kF32) return multiplyF32(matrix, x, y, yStride, stream);
  ProductArguments arguments = argumentsOf(matrix, x);
  arguments.segments = slicesOf(matrix.depth);
  arguments.y = y;
  arguments.yStride = yStride;
  if (x.rows <= kSkinnyRows) return multiplySkinny(matrix.type, arguments, false, stream);
  if (wgmmaTakes(arguments)) return multiplyWgmma(matrix.type, arguments, false, stream);
  if (!splitsInTwo(x.rows, matrix.columns)) return multiplyTiled(matrix.type, arguments, false, 1, stream);
  arguments.y = reinterpret_cast<float*>(workspace);
  arguments.yStride = matrix.columns;
  arguments.halfStride = x.rows * matrix.columns;
  multiplyTiled(matrix.type, arguments, false, 2, stream);
  const dim3 grid(static_cast<unsigned>((matrix.columns + 255) / 256), static_cast<unsigned>(x.rows));
  launchEarly(addHalvesKernel, grid, dim3(256), 0, stream, arguments.y, arguments.halfStride, arguments.columns, y,
              yStride);
}

void multiplyFixedPoint(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth, int64_t* sums,
                        int64_t sumStride, int32_t* badRow, cudaStream_t stream) {
  if (x.rows == 0 || matrix.columns == 0) return;
  if (matrix.depth == 0) {  // a rank without heads or FFN columns adds nothing
    check(cudaMemset2DAsync(sums, static_cast<size_t>(sumStride) * sizeof(int64_t), 0,
                            static_cast<size_t>(matrix.columns) * sizeof(int64_t), static_cast<size_t>(x.rows), stream),
          "zeroing of sums");
    return;
  }
  if (matrix.type == DataType::kF32) {
    return multiplyFixedPointF32(matrix, x, granuleDepth, sums, sumStride, badRow, stream);
  }
  ProductArguments arguments = argumentsOf(matrix, x);
  arguments.segments = granulesOf(matrix.depth, granuleDepth);
  arguments.sums = sums;
  arguments.sumStride = sumStride;
  arguments.badRow = badRow;
  if (x.rows <= kSkinnyRows) return multiplySkinny(matrix.type, arguments, true, stream);
  if (wgmmaTakes(arguments)) return multiplyWgmma(matrix.type, arguments, true, stream);
  int64_t splits = 1;
  if (x.rows <= kSplitRowsMax) {
    splits = std::clamp<int64_t>(kBlocksWanted / smallTileBlocks(matrix.columns), 1, arguments.segments.count);
  }
  if (splits > 1) {
    check(cudaMemset2DAsync(sums, static_cast<size_t>(sumStride) * sizeof(int64_t), 0,
                            static_cast<size_t>(matrix.columns) * sizeof(int64_t), static_cast<size_t>(x.rows), stream),
          "zeroing of sums");
  }
  multiplyTiled(matrix.type, arguments, true, static_cast<int>(splits), stream);
}

}  // namespace hels::cuda
