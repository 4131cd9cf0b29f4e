// Memory of a device, and pinned memory of the host, with one owner each.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace hels::cuda {

/// Memory of the device that is current when it is taken.
struct MemoryOfDevice {
  /// Throws kMemoryExceeded naming `purpose`, the bytes asked for and the bytes free.
  static std::byte* take(size_t sizeBytes, const std::string& purpose);
  static void giveBack(std::byte* data) noexcept;
};

/// Page-locked memory of the host: what copies beside kernels need.
struct MemoryOfHost {
  /// Throws kMemoryExceeded naming `purpose`.
  static std::byte* take(size_t sizeBytes, const std::string& purpose);
  static void giveBack(std::byte* data) noexcept;
};

/// Contents are undefined; null without bytes.
template <typename Memory>
class Buffer {
 public:
  Buffer() = default;
  Buffer(size_t sizeBytes, const std::string& purpose)
      : data_(sizeBytes == 0 ? nullptr : Memory::take(sizeBytes, purpose)), sizeBytes_(sizeBytes) {}
  ~Buffer() {
    if (data_ != nullptr) Memory::giveBack(data_);
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
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
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(sizeBytes_, other.sizeBytes_);
  }

  std::byte* data_ = nullptr;
  size_t sizeBytes_ = 0;
};

using DeviceBuffer = Buffer<MemoryOfDevice>;
using PinnedBuffer = Buffer<MemoryOfHost>;

/// Zeros all of it, for what comes in any stream. `purpose` is for the error.
void clear(const DeviceBuffer& buffer, const std::string& purpose);

}  // namespace hels::cuda
