// Exchanges whose sizes and bytes follow from (from, to, call): every rank can check what it gets.
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "comm/communicator.h"

namespace hels::test {

/// Bytes that `from` sends to `to`: none, few, uneven, and more than any buffer between two ranks holds.
inline size_t exchangeSize(int from, int to, int call) {
  constexpr size_t kSizes[] = {0, 1, 7, 64, 0, 65'535, 65'536, 65'537, 131'073, 0, 400'000, 3};
  if (from == to) return 0;
  return kSizes[static_cast<size_t>(5 * from + 3 * to + call) % std::size(kSizes)];
}

inline std::byte exchangeByte(int from, int to, int call, size_t index) {
  return static_cast<std::byte>((static_cast<size_t>(from * 31 + to * 17 + call) + index * 7 + index / 251) & 0xff);
}

/// Whether this rank gets of `size(from, to)` bytes what its peers mean for it.
template <typename Size>
bool exchangeIsRight(Communicator& communicator, int call, std::chrono::nanoseconds deadline, const Size& size) {
  const int rank = communicator.rank();
  const auto ranks = static_cast<size_t>(communicator.ranks());
  std::vector<std::vector<std::byte>> sent(ranks);
  std::vector<std::vector<std::byte>> received(ranks);
  std::vector<ExchangePart> parts(ranks);
  for (size_t peer = 0; peer < ranks; ++peer) {
    const auto to = static_cast<int>(peer);
    sent[peer].resize(to == rank ? 0 : size(rank, to));
    received[peer].resize(to == rank ? 0 : size(to, rank));
    for (size_t i = 0; i < sent[peer].size(); ++i) sent[peer][i] = exchangeByte(rank, to, call, i);
    parts[peer] = {sent[peer], received[peer]};
  }
  communicator.exchange(parts, deadline);
  for (size_t peer = 0; peer < ranks; ++peer) {
    for (size_t i = 0; i < received[peer].size(); ++i) {
      if (received[peer][i] != exchangeByte(static_cast<int>(peer), rank, call, i)) return false;
    }
  }
  return true;
}

}  // namespace hels::test
