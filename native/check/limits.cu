#include "check/limits.h"
#include "check/random_values.h"
#include "check/timing.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/device.h"

namespace hels::check {
namespace {

using cuda::DeviceBuffer;

constexpr int kReadThreads = 512;
constexpr int kReadUnroll = 8;

/// Reads values[0, count) of 16 bytes and keeps one word of each block, so that nothing may be left out.
__global__ void __launch_bounds__(kReadThreads) readKernel(const uint4* values, int64_t count, uint32_t* kept) {
  const int64_t perBlock = static_cast<int64_t>(kReadThreads) * kReadUnroll;
  uint32_t sum = 0;
  for (int64_t base = blockIdx.x * perBlock; base < count; base += gridDim.x * perBlock) {
    uint4 loaded[kReadUnroll];
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) {
      const int64_t index = base + static_cast<int64_t>(i) * kReadThreads + threadIdx.x;
      loaded[i] = cuda::loadOnce16(values + index, index < count);
    }
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) sum += loaded[i].x ^ loaded[i].y ^ loaded[i].z ^ loaded[i].w;
  }
  atomicAdd(kept, sum);
}

__global__ void __launch_bounds__(kReadThreads) copyKernel(uint4* target, const uint4* source, int64_t count) {
  const int64_t perBlock = static_cast<int64_t>(kReadThreads) * kReadUnroll;
  for (int64_t base = blockIdx.x * perBlock; base < count; base += gridDim.x * perBlock) {
    uint4 loaded[kReadUnroll];
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) {
      const int64_t index = base + static_cast<int64_t>(i) * kReadThreads + threadIdx.x;
      loaded[i] = cuda::loadOnce16(source + (index < count ? index : 0), index < count);
    }
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) {
      const int64_t index = base + static_cast<int64_t>(i) * kReadThreads + threadIdx.x;
      if (index < count) target[index] = loaded[i];
    }
  }
}

/// By a kernel and by the runtime's own copy: the faster one counts.
double measureCopy(const DeviceBuffer& buffer, bool quick, Item& item) {
  const size_t half = buffer.sizeBytes() / 2;
  const auto count = static_cast<int64_t>(half / sizeof(uint4));
  const Timing runtime = timeWork(
      1,
      [&](int, cudaStream_t stream) {
        cuda::check(cudaMemcpyAsync(buffer.data(), buffer.data() + half, half, cudaMemcpyDeviceToDevice, stream),
                    "copy");
      },
      shortTiming(quick));
  const int64_t blocks = (count + kReadThreads * kReadUnroll - 1) / (kReadThreads * kReadUnroll);
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(blocks, int64_t{1} << 20)));
  const Timing kernel = timeWork(
      1,
      [&](int, cudaStream_t stream) {
        cuda::launch(copyKernel, grid, dim3(kReadThreads), 0, stream, buffer.as<uint4>(),
                     reinterpret_cast<const uint4*>(buffer.data() + half), count);
      },
      shortTiming(quick));
  const double moved = 2.0 * static_cast<double>(half);
  const double rate = moved / std::min(runtime.seconds, kernel.seconds);
  item.figure("bytesPerSecond", rate);
  item.figure("runtimeBytesPerSecond", moved / runtime.seconds);
  item.figure("kernelBytesPerSecond", moved / kernel.seconds);
  item.figure("bytesCopied", static_cast<uint64_t>(half));
  return rate;
}

double measureRead(const DeviceBuffer& buffer, bool quick, cudaStream_t stream, Item& item) {
  cudaDeviceProp properties;
  int device = 0;
  cuda::check(cudaGetDevice(&device), "device");
  cuda::check(cudaGetDeviceProperties(&properties, device), "device properties");
  const DeviceBuffer kept(sizeof(uint32_t), "a benchmark");
  cuda::clear(kept, "a benchmark");
  const auto count = static_cast<int64_t>(buffer.sizeBytes() / sizeof(uint4));
  double best = 0;
  for (const int blocksPerProcessor : quick ? std::vector<int>{1} : std::vector<int>{2, 4, 8}) {
    const dim3 grid(static_cast<unsigned>(properties.multiProcessorCount * blocksPerProcessor));
    const Timing timing = timeWork(
        1,
        [&](int, cudaStream_t target) {
          cuda::launch(readKernel, grid, dim3(kReadThreads), 0, target, buffer.as<const uint4>(), count,
                       kept.as<uint32_t>());
        },
        shortTiming(quick), stream);
    best = std::max(best, static_cast<double>(buffer.sizeBytes()) / timing.seconds);
  }
  item.figure("bytesPerSecond", best);
  item.figure("bytesRead", static_cast<uint64_t>(buffer.sizeBytes()));
  return best;
}

double measureMatrixRate(bool quick, Item& item) {
  const int64_t size = quick ? 64 : 8192;
  cuda::CublasLt library;
  item.figure("library", library.describe());
  const auto type = DataType::kBf16;
  const DeviceBuffer x = randomBuffer(type, size * size, 1);
  const DeviceBuffer w = randomBuffer(type, size * size, 2);
  const DeviceBuffer y(static_cast<size_t>(size * size) * bytesOf(type), "a product");
  const DeviceBuffer workspace(cuda::CublasLt::kWorkspaceBytes, "a product");
  cuda::CublasProduct product;
  product.rows = product.columns = product.depth = product.xStride = product.weightStride = product.yStride = size;
  product.x = x.data();
  product.weights = w.data();
  product.y = y.data();
  const std::span<std::byte> space(workspace.data(), workspace.sizeBytes());
  library.tune(product, space, nullptr);
  const Timing timing =
      timeWork(1, [&](int, cudaStream_t stream) { library.multiply(product, space, stream); }, {7, 10e-3, 1.0});
  const double flop = 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
  item.figure("size", size);
  item.figure("flopPerSecond", flop / timing.seconds);
  return flop / timing.seconds;
}

}  // namespace

double measureReadOn(cudaStream_t stream, bool quick, Item& item) {
  const size_t bytes = quick ? size_t{1} << 16 : size_t{4} << 30;
  const DeviceBuffer buffer = randomBuffer(DataType::kF32, static_cast<int64_t>(bytes / 4), 3);
  return measureRead(buffer, quick, stream, item);
}

DeviceLimits measureLimits(const Options& options, Report& report) {
  DeviceLimits limits;
  report.section("limits of the device", [&] {
    const size_t bytes = options.quick ? size_t{1} << 16 : size_t{8} << 30;
    {
      DeviceBuffer buffer;
      report.item("memory for the measurement", [&](Item& item) {
        buffer = DeviceBuffer(bytes, "the measurement of bandwidth");
        fillNormal(buffer.data(), DataType::kF32, static_cast<int64_t>(bytes / 4), 3, 1.0F, nullptr);
        cuda::check(cudaDeviceSynchronize(), "filling");
        item.figure("bytes", static_cast<uint64_t>(bytes));
      });
      if (buffer.sizeBytes() == bytes) {
        report.item("copy", [&](Item& item) { limits.copyBytesPerSecond = measureCopy(buffer, options.quick, item); });
        report.item("read",
                    [&](Item& item) { limits.readBytesPerSecond = measureRead(buffer, options.quick, nullptr, item); });
      }
    }
    report.item("matrix rate", [&](Item& item) {
      try {
        limits.matrixFlopPerSecond = measureMatrixRate(options.quick, item);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kDeviceMissing) throw;
        item.figure("unavailable", error.what());  // no library: shares of the matrix rate are left out
      }
    });
  });
  return limits;
}

}  // namespace hels::check
