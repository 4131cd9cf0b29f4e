// Ranks on one host sum through memory they share instead of through the kernel's network stack. The connections they
// were formed with stay: over them the ranks agree on the memory, and a peer that ends shows there.
#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace hels {

class GlooCommunicator;

/// The same group over shared memory when every rank can reach it, otherwise `connections` itself. Every rank must call
/// it, as its first collective. Throws what a collective throws.
std::shared_ptr<Communicator> shareMemory(std::shared_ptr<GlooCommunicator> connections,
                                          std::chrono::nanoseconds deadline);

}  // namespace hels
