// Parts of chunks on their way from the rank that holds their KV to the one whose heads they are of: between where
// attention leaves and finds them (attention.h) and a message of parts one after another.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention.h"

namespace hels::cuda {

/// One chunk of one token: its parts are those of all query heads at `slot`; in the message they are the rows from
/// `row` on of each head group.
struct PartsEntry {
  int32_t token = 0;
  int32_t slot = 0;
  int32_t row = 0;
};

/// message(groups, rows, 2 + headDim) in f32: of a row the maximum, the sum, the outputs. A token's rows are its query
/// heads of the group.
struct PartsMessage {
  float* data = nullptr;
  int64_t groups = 0;
  int64_t queryHeadsPerGroup = 1;
  int64_t rows = 0;
  int64_t headDim = 0;
};

/// Copies what entries(count), in device memory, name: into the message,
void packParts(const AttentionParts& parts, const PartsEntry* entries, int64_t count, const PartsMessage& message,
               cudaStream_t stream);
/// and out of it.
void unpackParts(const PartsMessage& message, const PartsEntry* entries, int64_t count, const AttentionParts& parts,
                 cudaStream_t stream);

}  // namespace hels::cuda
