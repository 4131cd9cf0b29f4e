// Loops over independent work items on a fixed number of threads. Which thread runs which item never changes a result.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

namespace hels {

/// Runs body(item) for item in [0, items), in equal contiguous parts. `body` must not throw. One thread or item: no
/// team is formed.
template <typename Body>
void parallelFor(int threads, int64_t items, const Body& body) {
  if (threads <= 1 || items <= 1) {
    for (int64_t item = 0; item < items; ++item) body(item);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < items; ++item) body(item);
}

/// body(begin, end) for parts of [0, items), one for each thread.
template <typename Body>
void parallelForParts(int threads, int64_t items, const Body& body) {
  const int64_t parts = std::min<int64_t>(threads, items);
  parallelFor(threads, parts, [&](int64_t part) { body(part * items / parts, (part + 1) * items / parts); });
}

/// The same for items of unequal cost: a free thread takes the next item. body(item, thread), thread < threads.
template <typename Body>
void parallelForDynamic(int threads, int64_t items, const Body& body) {
  if (threads <= 1 || items <= 1) {
    for (int64_t item = 0; item < items; ++item) body(item, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
}

/// The least of the items that threads note.
class LeastItem {
 public:
  void note(int64_t item) {
    int64_t least = least_.load();
    while (item < least && !least_.compare_exchange_weak(least, item)) {
    }
  }
  /// -1: none was noted.
  int64_t get() const {
    const int64_t least = least_.load();
    return least == kNone ? -1 : least;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> least_{kNone};
};

}  // namespace hels
