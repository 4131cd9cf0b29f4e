// A block of threads copies the part of one query head of one entry.
#include "kernels/cuda/device.h"
#include "kernels/cuda/parts_message.h"

namespace hels::cuda {
namespace {

constexpr int kThreads = 64;

template <bool kPack>
__global__ void __launch_bounds__(kThreads)
    copyParts(AttentionParts parts, const PartsEntry* entries, PartsMessage message) {
  const PartsEntry entry = entries[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);
  const auto headsPerGroup = static_cast<int>(message.queryHeadsPerGroup);
  const int64_t heads = message.groups * message.queryHeadsPerGroup;
  const int64_t part = (entry.token * heads + head) * parts.slots + entry.slot;
  const int64_t row = head / headsPerGroup * message.rows + entry.row + head % headsPerGroup;
  float* inMessage = message.data + row * (message.headDim + 2);
  float* outputs = parts.outputs + part * message.headDim;
  for (int i = static_cast<int>(threadIdx.x); i < message.headDim + 2; i += kThreads) {
    float* apart = i == 0 ? parts.maxima + part : i == 1 ? parts.sums + part : outputs + i - 2;
    if constexpr (kPack) {
      inMessage[i] = *apart;
    } else {
      *apart = inMessage[i];
    }
  }
}

dim3 gridOf(int64_t count, const PartsMessage& message) {
  return dim3(static_cast<unsigned>(count), static_cast<unsigned>(message.groups * message.queryHeadsPerGroup));
}

}  // namespace

void packParts(const AttentionParts& parts, const PartsEntry* entries, int64_t count, const PartsMessage& message,
               cudaStream_t stream) {
  if (count == 0 || message.groups == 0) return;
  launch(copyParts<true>, gridOf(count, message), dim3(kThreads), 0, stream, parts, entries, message);
}

void unpackParts(const PartsMessage& message, const PartsEntry* entries, int64_t count, const AttentionParts& parts,
                 cudaStream_t stream) {
  if (count == 0 || message.groups == 0) return;
  launch(copyParts<false>, gridOf(count, message), dim3(kThreads), 0, stream, parts, entries, message);
}

}  // namespace hels::cuda
