// Fills device memory with random numbers, and copies between host and device for checks.
#include "check/random_values.h"
#include "kernels/cuda/device.h"

namespace hels::check {
namespace {

__global__ void fillKernel(void* target, DataType type, int64_t count, uint64_t seed, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const float value = randomNormal(seed, static_cast<uint64_t>(i)) * scale;
    if (type == DataType::kF32) {
      static_cast<float*>(target)[i] = value;
    } else {
      static_cast<uint16_t*>(target)[i] = cuda::narrow(type, value);
    }
  }
}

}  // namespace

double hostValue(DataType type, uint64_t seed, uint64_t index, float scale) {
  const float value = randomNormal(seed, index) * scale;
  if (type == DataType::kBf16) return bf16ToF32(f32ToBf16(value));
  if (type == DataType::kF16) return f16ToF32(f32ToF16(value));
  return value;
}

void fillNormal(void* target, DataType type, int64_t count, uint64_t seed, float scale, cudaStream_t stream) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + 255) / 256, 4096));
  cuda::launch(fillKernel, dim3(blocks), dim3(256), 0, stream, target, type, count, seed, scale);
}

cuda::DeviceBuffer randomBuffer(DataType type, int64_t count, uint64_t seed, float scale) {
  cuda::DeviceBuffer buffer(static_cast<size_t>(count) * bytesOf(type), "random values");
  fillNormal(buffer.data(), type, count, seed, scale, nullptr);
  cuda::check(cudaDeviceSynchronize(), "filling with random values");
  return buffer;
}

template <typename Element>
std::vector<Element> download(const void* source, size_t count) {
  std::vector<Element> values(count);
  if (count > 0) {
    cuda::check(cudaMemcpy(values.data(), source, count * sizeof(Element), cudaMemcpyDeviceToHost), "copy to the host");
  }
  return values;
}
template std::vector<float> download<float>(const void* source, size_t count);
template std::vector<uint16_t> download<uint16_t>(const void* source, size_t count);
template std::vector<int32_t> download<int32_t>(const void* source, size_t count);
template std::vector<int64_t> download<int64_t>(const void* source, size_t count);
template std::vector<std::byte> download<std::byte>(const void* source, size_t count);

template <typename Element>
cuda::DeviceBuffer upload(const std::vector<Element>& values) {
  cuda::DeviceBuffer buffer(values.size() * sizeof(Element), "values of a check");
  if (!values.empty()) {
    cuda::check(cudaMemcpy(buffer.data(), values.data(), buffer.sizeBytes(), cudaMemcpyHostToDevice),
                "copy to the device");
  }
  return buffer;
}
template cuda::DeviceBuffer upload<float>(const std::vector<float>& values);
template cuda::DeviceBuffer upload<uint16_t>(const std::vector<uint16_t>& values);
template cuda::DeviceBuffer upload<int32_t>(const std::vector<int32_t>& values);

}  // namespace hels::check
