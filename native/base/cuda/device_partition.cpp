#include "base/cuda/device_partition.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "base/cuda/device_list.h"
#include "base/cuda/driver_api.h"
#include "base/error.h"

namespace hels::cuda {
namespace {

/// Of the driver's numbers that the runtime has under another name, or as none.
constexpr int kDeinitialized = 4, kContextDestroyed = 709;

/// Of the driver's numbers, which are those of the runtime's errors. Few leave the process without its device.
ErrorCode codeOfStatus(driver::Status status) {
  const auto error = static_cast<cudaError_t>(status);
  if (error == cudaErrorNoDevice || error == cudaErrorInvalidDevice || error == cudaErrorNotSupported)
    return ErrorCode::kDeviceMissing;
  const bool lost = error == cudaErrorECCUncorrectable || error == cudaErrorNvlinkUncorrectable ||
                    error == cudaErrorIllegalAddress || error == cudaErrorLaunchTimeout || status == kDeinitialized ||
                    status == kContextDestroyed || (cudaErrorAssert <= error && error <= cudaErrorLaunchFailure) ||
                    error == cudaErrorUnknown;
  if (lost) return ErrorCode::kDeviceLost;
  return error == cudaErrorMemoryAllocation ? ErrorCode::kMemoryExceeded : ErrorCode::kInternal;
}

void checkDriver(const driver::Api& api, driver::Status status, const std::string& what) {
  if (status == driver::kSuccess) return;
  const char* text = nullptr;
  const bool known = api.getErrorString(status, &text) == driver::kSuccess && text != nullptr;
  throw Error(codeOfStatus(status),
              what + ": " + (known ? text : "unknown error") + " (driver status " + std::to_string(status) + ")");
}

/// The functions of the driver; says which driver has them when this one does not.
driver::Api openDriver(const DynamicLibrary& library, int device) {
  int version = 0;
  (void)library.function<driver::Status(int*)>("cuDriverGetVersion")(&version);
  try {
    return driver::Api(library);
  } catch (const Error& error) {
    throw Error(ErrorCode::kDeviceMissing, "cuda:" + std::to_string(device) +
                                               " cannot be partitioned: that takes a driver for CUDA 12.5 or newer "
                                               "(release 555), this one is for CUDA " +
                                               std::to_string(version / 1000) + "." +
                                               std::to_string(version % 1000 / 10) + "; " + error.what());
  }
}

std::string deviceText(int device) { return "cuda:" + std::to_string(device); }

/// A pool's units. Each is given to at most one partition.
class Pool final : public PartitionPool, public std::enable_shared_from_this<Pool> {
 public:
  Pool(int device, const LibrarySearch& search)
      : device_(device),
        library_(DynamicLibrary::open("the NVIDIA driver", {"libcuda.so.1"}, search)),
        api_(openDriver(library_, device)) {
    checkDriver(api_, api_.initialize(0), "start of the NVIDIA driver");
    checkDriver(api_, api_.deviceGet(&handle_, device), deviceText(device));
    splitDevice();
  }

  std::unique_ptr<DevicePartition> take(int multiprocessors) override;
  int unit() const override { return countOf(units_.front().resource); }

  const driver::Api& api() const { return api_; }
  int device() const { return device_; }
  int total() const { return total_; }
  driver::Device handle() const { return handle_; }

  void giveBack(const std::vector<size_t>& units) noexcept {
    const std::lock_guard lock(mutex_);
    for (const size_t unit : units) units_[unit].taken = false;
  }

 private:
  struct Unit {
    driver::Resource resource;
    bool taken = false;
  };

  static int countOf(const driver::Resource& resource) { return static_cast<int>(resource.multiprocessors.count); }

  /// Into the smallest groups the device allows, and what is left over: parts of one partition must come of one split.
  void splitDevice() {
    const std::string what = "multiprocessors of " + deviceText(device_);
    driver::Resource whole{};
    checkDriver(api_, api_.getDeviceResource(handle_, &whole, driver::kMultiprocessorResource), what);
    total_ = countOf(whole);
    unsigned count = 0;
    checkDriver(api_, api_.split(nullptr, &count, &whole, nullptr, 0, 1), what);
    require(count > 0, ErrorCode::kDeviceMissing, what + ": the driver divides them into no group");
    std::vector<driver::Resource> groups(count);
    driver::Resource rest{};
    checkDriver(api_, api_.split(groups.data(), &count, &whole, &rest, 0, 1), what);
    groups.resize(count);
    if (rest.type == driver::kMultiprocessorResource && rest.multiprocessors.count > 0) groups.push_back(rest);
    for (const driver::Resource& group : groups) units_.push_back({.resource = group});
  }

  /// Indices of free units with at least so many multiprocessors. Runs with the lock held.
  std::vector<size_t> choose(int multiprocessors) const {
    std::vector<size_t> chosen;
    int count = 0;
    for (size_t unit = 0; unit < units_.size() && count < multiprocessors; ++unit) {
      if (units_[unit].taken) continue;
      chosen.push_back(unit);
      count += countOf(units_[unit].resource);
    }
    require(count >= multiprocessors, ErrorCode::kMemoryExceeded,
            "sm is " + std::to_string(multiprocessors) + "; of the " + std::to_string(total_) + " multiprocessors of " +
                deviceText(device_) + " other partitions of this process leave " + std::to_string(count));
    return chosen;
  }

  const int device_;
  DynamicLibrary library_;
  driver::Api api_;
  driver::Device handle_ = 0;
  int total_ = 0;
  std::mutex mutex_;  // guards `taken` of the units
  std::vector<Unit> units_;
};

class Partition final : public DevicePartition {
 public:
  Partition(std::shared_ptr<Pool> pool, std::vector<size_t> units, std::vector<driver::Resource> resources)
      : pool_(std::move(pool)), units_(std::move(units)) {
    try {
      open(std::move(resources));
    } catch (...) {
      close();
      throw;
    }
  }
  ~Partition() override { close(); }
  Partition(const Partition&) = delete;
  Partition& operator=(const Partition&) = delete;

  int device() const override { return pool_->device(); }
  int multiprocessors() const override { return multiprocessors_; }
  int deviceMultiprocessors() const override { return pool_->total(); }

  cudaStream_t addStream() override {
    cudaStream_t stream = nullptr;
    checkDriver(pool_->api(), pool_->api().streamCreate(&stream, context_, driver::kNonBlockingStream, 0),
                "stream of a partition of " + deviceText(device()));
    streams_.push_back(stream);
    return stream;
  }

 private:
  void open(std::vector<driver::Resource> resources) {
    const driver::Api& api = pool_->api();
    const std::string what = "partition of " + deviceText(device());
    driver::ResourceDescription* description = nullptr;
    checkDriver(api, api.describe(&description, resources.data(), static_cast<unsigned>(resources.size())), what);
    checkDriver(api, api.contextCreate(&context_, description, pool_->handle(), driver::kDefaultStream), what);
    driver::Resource own{};
    checkDriver(api, api.getContextResource(context_, &own, driver::kMultiprocessorResource), what);
    multiprocessors_ = static_cast<int>(own.multiprocessors.count);
  }

  void close() noexcept {
    const driver::Api& api = pool_->api();
    for (const cudaStream_t stream : streams_) (void)api.streamDestroy(stream);
    if (context_ != nullptr) (void)api.contextDestroy(context_);
    pool_->giveBack(units_);
  }

  const std::shared_ptr<Pool> pool_;
  const std::vector<size_t> units_;
  driver::GreenContext* context_ = nullptr;
  int multiprocessors_ = 0;
  std::vector<cudaStream_t> streams_;
};

std::unique_ptr<DevicePartition> Pool::take(int multiprocessors) {
  require(1 <= multiprocessors && multiprocessors <= total_, ErrorCode::kShapeInvalid,
          "sm is " + std::to_string(multiprocessors) + "; " + deviceText(device_) + " has 1 to " +
              std::to_string(total_) + " multiprocessors");
  std::vector<size_t> chosen;
  std::vector<driver::Resource> resources;
  {
    const std::lock_guard lock(mutex_);
    chosen = choose(multiprocessors);
    for (const size_t unit : chosen) {
      units_[unit].taken = true;
      resources.push_back(units_[unit].resource);
    }
  }
  return std::make_unique<Partition>(shared_from_this(), std::move(chosen), std::move(resources));
}

}  // namespace

std::string DevicePartition::describe() const {
  return std::to_string(multiprocessors()) + " of " + std::to_string(deviceMultiprocessors()) + " multiprocessors";
}

std::shared_ptr<PartitionPool> PartitionPool::of(int device) {
  // The primary context must be there before a partition's: else each partition would start and end it.
  useDevice(device);
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<PartitionPool>> pools;
  const std::lock_guard lock(mutex);
  std::shared_ptr<PartitionPool>& pool = pools[device];
  if (pool == nullptr) pool = create(device, LibrarySearch::ofHost());
  return pool;
}

std::shared_ptr<PartitionPool> PartitionPool::create(int device, const LibrarySearch& search) {
  return std::make_shared<Pool>(device, search);
}

}  // namespace hels::cuda
