#include "comm/shared_segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>
#include <new>
#include <string>
#include <utility>

namespace hels {
namespace {

static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t& keyOf(std::byte* data) { return *reinterpret_cast<int64_t*>(data); }

}  // namespace

std::optional<SharedSegment> SharedSegment::map(int descriptor, size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    ::close(descriptor);
    return std::nullopt;
  }
  return SharedSegment(descriptor, static_cast<std::byte*>(data), bytes);
}

std::optional<SharedSegment> SharedSegment::create(size_t bytes) {
  const int descriptor = ::memfd_create("hels-collective", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return std::nullopt;
  // Sealed: no process can shrink it under the others, which would end them by SIGBUS.
  if (::ftruncate(descriptor, static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    ::close(descriptor);
    return std::nullopt;
  }
  std::optional<SharedSegment> segment = map(descriptor, bytes);
  if (!segment) return std::nullopt;
  int64_t key = 0;
  if (::getrandom(&key, sizeof(key), 0) != sizeof(key) || key == 0) return std::nullopt;
  keyOf(segment->data_) = key;
  return segment;
}

std::optional<SharedSegment> SharedSegment::attach(const SegmentOffer& offer, size_t bytes) {
  if (offer.key == 0) return std::nullopt;
  const std::string path = "/proc/" + std::to_string(offer.process) + "/fd/" + std::to_string(offer.descriptor);
  // Not blocking: on another host the same path may be anything, a pipe too.
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return std::nullopt;
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size != static_cast<off_t>(bytes)) {
    ::close(descriptor);
    return std::nullopt;
  }
  std::optional<SharedSegment> segment = map(descriptor, bytes);
  if (!segment || keyOf(segment->data_) != offer.key) return std::nullopt;
  segment->closeOffer();
  return segment;
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SharedSegment::~SharedSegment() {
  closeOffer();
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

SegmentOffer SharedSegment::offer() const { return {::getpid(), descriptor_, keyOf(data_)}; }

void SharedSegment::closeOffer() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void SharedCounter::publish(uint32_t value) {
  value_.store(value, std::memory_order_seq_cst);
  // A waiter counts itself before it looks at the value for the last time, so one of the two sees the other.
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wakeAll();
}

bool SharedCounter::reached(uint32_t value) const {
  return static_cast<int32_t>(value_.load(std::memory_order_acquire) - value) >= 0;
}

void SharedCounter::sleepUntil(uint32_t value, std::chrono::nanoseconds longest) {
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t seen = value_.load(std::memory_order_seq_cst);
  if (static_cast<int32_t>(seen - value) < 0) {
    const timespec limit{.tv_sec = longest.count() / 1'000'000'000, .tv_nsec = longest.count() % 1'000'000'000};
    // The outcome does not matter: every caller looks at the counter again.
    ::syscall(SYS_futex, &value_, FUTEX_WAIT, seen, &limit, nullptr, 0);
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

void SharedCounter::wakeAll() { ::syscall(SYS_futex, &value_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace hels
