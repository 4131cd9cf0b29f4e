// Memory of a device, and pinned memory of the host, with one owner each.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace hels::cuda {

/// Memory of the device that is current when it is made. Contents are undefined.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws kMemoryExceeded naming `purpose`, the bytes asked for and the bytes free.
  DeviceBuffer(size_t sizeBytes, const std::string& purpose);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  std::byte* data() const { return data_; }
  template <typename Element>
  Element* as() const {
    return reinterpret_cast<Element*>(data_);
  }
  size_t sizeBytes() const { return sizeBytes_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(sizeBytes_, other.sizeBytes_);
  }

  std::byte* data_ = nullptr;
  size_t sizeBytes_ = 0;
};

/// Page-locked memory of the host: what copies beside kernels need.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// Throws kMemoryExceeded naming `purpose`.
  PinnedBuffer(size_t sizeBytes, const std::string& purpose);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  std::byte* data() const { return data_; }
  template <typename Element>
  Element* as() const {
    return reinterpret_cast<Element*>(data_);
  }
  size_t sizeBytes() const { return sizeBytes_; }

 private:
  void swap(PinnedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(sizeBytes_, other.sizeBytes_);
  }

  std::byte* data_ = nullptr;
  size_t sizeBytes_ = 0;
};

}  // namespace hels::cuda
