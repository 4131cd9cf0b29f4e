// One region of memory, handed out in order. The same layout code runs twice: on a counting arena, to know the size
// before anything is allocated, and on a real one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hels {

/// When memory is really taken, and in pages of which size. Large pages cost fewer walks through page tables.
enum class ArenaPages : uint8_t {
  kLarge,     // on first touch
  kLargeNow,  // all at once: for what is touched all over, a little each time, in the middle of a step
  kSmall,     // on first touch: for what is read and written in small pieces all over, and seldom
};

class Arena {
 public:
  /// Counts only: take() returns null.
  Arena() = default;
  /// A zeroed region of `sizeBytes`. Throws kMemoryExceeded naming `purpose` when the system refuses.
  Arena(size_t sizeBytes, const char* purpose, ArenaPages pages = ArenaPages::kLarge);
  /// Hands out a region that belongs to somebody else, aligned to a cache line: of a device, too.
  Arena(std::byte* region, size_t sizeBytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// The next `sizeBytes`, aligned to a cache line.
  std::byte* takeBytes(size_t sizeBytes);
  template <typename Element>
  Element* take(int64_t count) {
    return reinterpret_cast<Element*>(takeBytes(static_cast<size_t>(count) * sizeof(Element)));
  }
  size_t usedBytes() const { return usedBytes_; }
  size_t sizeBytes() const { return sizeBytes_; }
  /// Takes all of its memory now, as with kLargeNow.
  void populate();
  /// The first byte; null of an empty or counting arena.
  std::byte* data() const { return data_; }
  /// Bytes that take memory now; pages that were never touched take none.
  size_t residentBytes() const;
  /// Forgets what was taken; the memory stays and keeps its contents.
  void rewind() { usedBytes_ = 0; }

 private:
  std::byte* data_ = nullptr;
  size_t sizeBytes_ = 0;
  size_t usedBytes_ = 0;
  bool counting_ = true;
  bool owner_ = true;
};

}  // namespace hels
