// What the host has to give.
#pragma once

#include <cstddef>

namespace hels {

/// Bytes that this process could take now without swapping: of the system, or of its control group where that has
/// less. The largest number where neither is known.
size_t availableHostBytes();

}  // namespace hels
