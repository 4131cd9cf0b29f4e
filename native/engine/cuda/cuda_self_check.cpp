#include "engine/cuda/cuda_self_check.h"

#include <climits>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/error.h"
#include "engine/cuda/cuda_weights.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

/// Raised whenever any bit of the exact mode changes: kernels, the chunk size of attention, the scale of the fixed
/// point.
constexpr const char* kNumericsVersion = "cuda-1";

constexpr int64_t kColumns = 72;
constexpr int64_t kRows = 70;  // another kernel than few rows take
constexpr Range kSlice{24, 64};

/// FNV-1a.
class Hash {
 public:
  template <typename Element>
  void add(const std::vector<Element>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(Element); ++i) value_ = (value_ ^ bytes[i]) * 0x100000001b3ULL;
  }
  std::string hex() const {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(value_ >> shift) & 15];
    return text;
  }

 private:
  uint64_t value_ = 0xcbf29ce484222325ULL;
};

/// Products with one depth.
class ProductCheck {
 public:
  ProductCheck(DataType type, Numerics numerics, int64_t depth, CudaProducts& products, cudaStream_t stream)
      : type_(type),
        depth_(paddedDepth(type, depth)),
        products_(products),
        stream_(stream),
        weights_(static_cast<size_t>(kColumns * depth_) * bytesOf(type), "the self-check"),
        x_(static_cast<size_t>(kRows * depth_) * bytesOf(type), "the self-check"),
        y_(static_cast<size_t>(kRows * kColumns) * sizeof(float), "the self-check"),
        sums_(static_cast<size_t>(kRows * kColumns) * sizeof(int64_t), "the self-check"),
        bad_(sizeof(int32_t), "the self-check"),
        workspace_(productWorkspaceBytes(numerics, kRows, kColumns), "the self-check") {
    fillRandom(type, weights_.data(), kColumns * depth_, 1.0F, 1, stream);
    fillRandom(type, x_.data(), kRows * depth_, 1.0F, 2, stream);
    scratch_.sums = sums_.as<int64_t>();
    scratch_.partials = y_.as<float>();
    scratch_.productWorkspace = workspace_.data();
    scratch_.productWorkspaceBytes = workspace_.sizeBytes();
  }

  void run(bool exact, Hash& hash) {
    const std::vector<float> whole = product({0, kColumns}, kRows);
    const std::vector<int64_t> sums = fixedPoint(kRows);
    hash.add(whole);
    hash.add(sums);
    if (!exact) return;
    for (const int64_t rows : {1, 12, 40}) {
      requireSame(whole, product({0, kColumns}, rows), {0, kColumns}, "products of " + std::to_string(rows) + " rows");
      const std::vector<int64_t> part = fixedPoint(rows);
      require(std::memcmp(part.data(), sums.data(), part.size() * sizeof(int64_t)) == 0, ErrorCode::kInternal,
              failure("fixed-point sums of " + std::to_string(rows) + " rows"));
    }
    requireSame(whole, product(kSlice, 12), kSlice, "products of a slice of columns");
  }

 private:
  template <typename Element>
  std::vector<Element> download(const DeviceBuffer& buffer, int64_t count) const {
    std::vector<Element> values(static_cast<size_t>(count));
    check(
        cudaMemcpyAsync(values.data(), buffer.data(), values.size() * sizeof(Element), cudaMemcpyDeviceToHost, stream_),
        "self-check");
    check(cudaStreamSynchronize(stream_), "self-check");
    return values;
  }

  std::vector<float> product(Range columns, int64_t rows) {
    const std::byte* weights = weights_.data() + static_cast<size_t>(columns.begin * depth_) * bytesOf(type_);
    products_.multiply({type_, columns.size(), depth_, weights}, {x_.data(), depth_, rows}, y_.as<float>(),
                       columns.size(), scratch_, stream_);
    return download<float>(y_, rows * columns.size());
  }

  /// In granules of about half the depth.
  std::vector<int64_t> fixedPoint(int64_t rows) {
    check(cudaMemsetAsync(bad_.data(), 0x7F, bad_.sizeBytes(), stream_), "self-check");
    products_.multiplyFixedPoint({type_, kColumns, depth_, weights_.data()}, {x_.data(), depth_, rows},
                                 roundUp(divCeil(depth_, 2), 8), bad_.as<int32_t>(), scratch_, stream_);
    return download<int64_t>(sums_, rows * kColumns);
  }

  void requireSame(const std::vector<float>& whole, const std::vector<float>& part, Range columns,
                   const std::string& what) const {
    const auto width = static_cast<size_t>(columns.size());
    for (size_t row = 0; row < part.size() / width; ++row) {
      const float* expected = whole.data() + row * kColumns + columns.begin;
      require(std::memcmp(expected, part.data() + row * width, width * sizeof(float)) == 0, ErrorCode::kInternal,
              failure(what));
    }
  }

  std::string failure(const std::string& what) const {
    return "self-check of exact numerics: " + what + " differ from the whole (" + products_.implementation() + ", " +
           dataTypeName(type_) + ", depth " + std::to_string(depth_) + "); use numerics: fast on this device";
  }

  const DataType type_;
  const int64_t depth_;
  CudaProducts& products_;
  cudaStream_t stream_;
  DeviceBuffer weights_, x_, y_, sums_, bad_, workspace_;
  CudaScratch scratch_;
};

int currentDevice() {
  int device = 0;
  check(cudaGetDevice(&device), "the current device");
  return device;
}

std::string deviceName() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, currentDevice()), "properties of the device");
  return properties.name;
}

using Depths = std::set<int64_t>;

Hash checkedProducts(DataType type, Numerics numerics, const Depths& depths, CudaProducts& products,
                     cudaStream_t stream) {
  Hash hash;
  for (const int64_t depth : depths) {
    ProductCheck(type, numerics, depth, products, stream).run(numerics == Numerics::kExact, hash);
  }
  return hash;
}

/// The hash of what a device of this process has answered: it answers the same to every engine.
Hash hashOfProducts(DataType type, const EngineOptions& options, const Depths& depths, CudaProducts& products,
                    cudaStream_t stream) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, std::string, DataType, Depths>, Hash> answers;
  const std::tuple key{currentDevice(), options.multiprocessors, products.implementation(), type, depths};
  {
    const std::lock_guard lock(mutex);
    const auto found = answers.find(key);
    if (found != answers.end()) return found->second;
  }
  const Hash hash = checkedProducts(type, options.numerics, depths, products, stream);
  const std::lock_guard lock(mutex);
  return answers.emplace(key, hash).first->second;
}

}  // namespace

std::string cudaFingerprint(const ModelSpec& model, const EngineOptions& options, CudaProducts& products,
                            cudaStream_t stream) {
  const bool exact = options.numerics == Numerics::kExact;
  const Depths depths{model.hiddenSize, model.queryHeadsPerGroup * model.headDim, model.ffnGranule};
  const Hash hash = hashOfProducts(model.weightType, options, depths, products, stream);
  return std::string(exact ? kNumericsVersion : "fast-1") + "/" + deviceName() + "/" + products.implementation() + "/" +
         dataTypeName(model.weightType) + ":" + hash.hex();
}

}  // namespace hels::cuda
