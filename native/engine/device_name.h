// The words for a rank's device: "cpu", or "cuda:N" for GPU N of the process.
#pragma once

#include <optional>
#include <string>

namespace hels {

/// The number of a GPU; nothing for "cpu". Throws kShapeInvalid for other words.
std::optional<int> cudaDeviceOf(const std::string& device);

}  // namespace hels
