// Random numbers that host and device compute alike from (seed, index): what a kernel's input holds is known on the
// host without a copy, and a model's weights are made on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/data_type.h"

namespace hels::check {

/// A uniform 64-bit number (the finalizer of splitmix64).
__host__ __device__ inline uint64_t randomBits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// About normal, variance 1: the sum of four uniform numbers.
__host__ __device__ inline float randomNormal(uint64_t seed, uint64_t index) {
  const uint64_t bits = randomBits(seed, index);
  const auto sum = static_cast<int>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48));
  return static_cast<float>(sum - 131070) * 2.6430e-5F;  // sqrt(3) / 65536
}

/// randomNormal(seed, index) * scale as `type` holds it.
double hostValue(DataType type, uint64_t seed, uint64_t index, float scale = 1.0F);

/// Fills target[0, count) of `type` with randomNormal(seed, index) * scale.
void fillNormal(void* target, DataType type, int64_t count, uint64_t seed, float scale, cudaStream_t stream);

/// Device memory of `count` such values.
cuda::DeviceBuffer randomBuffer(DataType type, int64_t count, uint64_t seed, float scale = 1.0F);

template <typename Element>
std::vector<Element> download(const void* source, size_t count);
extern template std::vector<float> download<float>(const void* source, size_t count);
extern template std::vector<uint16_t> download<uint16_t>(const void* source, size_t count);
extern template std::vector<int32_t> download<int32_t>(const void* source, size_t count);
extern template std::vector<int64_t> download<int64_t>(const void* source, size_t count);
extern template std::vector<std::byte> download<std::byte>(const void* source, size_t count);

template <typename Element>
cuda::DeviceBuffer upload(const std::vector<Element>& values);
extern template cuda::DeviceBuffer upload<float>(const std::vector<float>& values);
extern template cuda::DeviceBuffer upload<uint16_t>(const std::vector<uint16_t>& values);
extern template cuda::DeviceBuffer upload<int32_t>(const std::vector<int32_t>& values);

}  // namespace hels::check
