// The memory that the ranks of one host share, and the words in it on which they wait for each other.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace hels {

/// How other processes of this host find a segment. All zero: there is none.
struct SegmentOffer {
  int64_t process = 0;
  int64_t descriptor = 0;
  int64_t key = 0;  // random; proves that what was opened is what was offered
};

/// A mapping of `bytes` zeroed bytes that several processes share. No name is left behind when they die.
class SharedSegment {
 public:
  /// nullopt when the system refuses.
  static std::optional<SharedSegment> create(size_t bytes);
  /// nullopt when the offer is empty, lies on another host or out of reach, or is another memory than was offered.
  static std::optional<SharedSegment> attach(const SegmentOffer& offer, size_t bytes);
  ~SharedSegment();
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;
  SharedSegment& operator=(SharedSegment&& other) noexcept;

  /// Valid until closeOffer().
  SegmentOffer offer() const;
  /// Nobody can attach from now on; the mapping stays.
  void closeOffer();
  /// 64-byte aligned; the first 64 bytes belong to the segment itself.
  std::byte* data() const { return data_; }

 private:
  SharedSegment(int descriptor, std::byte* data, size_t bytes) : descriptor_(descriptor), data_(data), bytes_(bytes) {}
  static std::optional<SharedSegment> map(int descriptor, size_t bytes);

  int descriptor_ = -1;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

/// A counter in shared memory that one process raises and others wait for.
class alignas(64) SharedCounter {
 public:
  /// What was written before is visible to those who have seen `value`.
  void publish(uint32_t value);
  /// Whether the counter has come to `value`; it may have wrapped around.
  bool reached(uint32_t value) const;
  /// Sleeps until the counter changes, wakeAll() is called or `longest` has passed, unless it has come to `value`.
  void sleepUntil(uint32_t value, std::chrono::nanoseconds longest);
  void wakeAll();

 private:
  std::atomic<uint32_t> value_;
  std::atomic<uint32_t> sleepers_;
};

}  // namespace hels
