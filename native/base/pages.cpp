#include "base/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"

namespace hels {
namespace {

size_t pageBytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Bytes from the start of its page.
size_t offsetInPage(const std::byte* address) { return reinterpret_cast<uintptr_t>(address) % pageBytes(); }

}  // namespace

void returnPages(std::byte* data, size_t sizeBytes) noexcept {
  const size_t head = (pageBytes() - offsetInPage(data)) % pageBytes();
  if (sizeBytes < head + pageBytes()) return;
  const size_t whole = (sizeBytes - head) / pageBytes() * pageBytes();
  madvise(data + head, whole, MADV_DONTNEED);  // fails only for memory of another kind
}

size_t residentBytes(const std::byte* data, size_t sizeBytes) {
  constexpr size_t kPagesAtOnce = size_t{1} << 16;
  if (sizeBytes == 0) return 0;
  const std::byte* first = data - offsetInPage(data);
  const size_t pages = (offsetInPage(data) + sizeBytes + pageBytes() - 1) / pageBytes();
  std::vector<unsigned char> resident(std::min(pages, kPagesAtOnce));
  size_t count = 0;
  for (size_t page = 0; page < pages; page += kPagesAtOnce) {
    const size_t part = std::min(pages - page, kPagesAtOnce);
    auto* const address = const_cast<std::byte*>(first + page * pageBytes());
    require(mincore(address, part * pageBytes(), resident.data()) == 0, ErrorCode::kInternal,
            "mincore() refused a region of memory");
    count += static_cast<size_t>(std::count_if(resident.begin(), resident.begin() + static_cast<std::ptrdiff_t>(part),
                                               [](unsigned char flags) { return (flags & 1U) != 0; }));
  }
  return count * pageBytes();
}

}  // namespace hels
