#include "comm/communicator.h"

#include <string>

#include "base/error.h"

namespace hels {

void validateExchange(std::span<const ExchangePart> parts, int rank, int ranks) {
  require(parts.size() == static_cast<size_t>(ranks), ErrorCode::kShapeInvalid,
          "parts has " + std::to_string(parts.size()) + " entries; an exchange needs one for each of the " +
              std::to_string(ranks) + " ranks");
  const ExchangePart& own = parts[static_cast<size_t>(rank)];
  require(own.send.empty() && own.receive.empty(), ErrorCode::kShapeInvalid,
          "parts[" + std::to_string(rank) + "] is of rank " + std::to_string(rank) +
              " itself; nothing can be sent there or received from there");
}

}  // namespace hels
