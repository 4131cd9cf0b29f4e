// Memory of the system by pages.
#pragma once

#include <cstddef>

namespace hels {

/// Gives the pages that lie wholly within `sizeBytes` from `data` on back to the system; the addresses stay valid and
/// read as zero there. Only of private anonymous memory.
void returnPages(std::byte* data, size_t sizeBytes) noexcept;

/// Bytes of the region's pages that take memory now; whole pages count.
size_t residentBytes(const std::byte* data, size_t sizeBytes);

}  // namespace hels
