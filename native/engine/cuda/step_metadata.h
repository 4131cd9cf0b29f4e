// What the kernels of a step must know of its sequences: written into page-locked memory and copied to the device in
// one piece.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/cuda/buffer.h"
#include "engine/token_batch.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/sampling.h"

namespace hels::cuda {

/// What the launches of a step are made for: at least what the step has. It fixes where everything lies.
struct StepShape {
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t tokensPerSequenceMax = 0;
  int64_t contextMax = 0;
  int64_t logitRows = 0;
  int64_t tableBlocks = 0;  // of a sequence
};

/// A token whose logits are needed.
struct LogitRow {
  int64_t token = 0;  // of the step
  int32_t sequence = 0;
  bool samples = false;
};

/// The step's own shape.
StepShape shapeOf(const TokenBatch& tokens, const std::vector<LogitRow>& rows, int64_t kvBlockTokens);

class StepMetadata {
 public:
  /// Bytes for a step of `shape`.
  static size_t measure(const StepShape& shape);

  /// `device` has measure(largest) bytes. Addresses from `deviceBlocks` on are lent: kernels see -1 in their place.
  StepMetadata(const StepShape& largest, int64_t deviceBlocks, std::byte* device);

  /// Throws kInternal unless `shape` holds the step. What the step does not fill is padding: sequences and tokens that
  /// kernels skip, rows that do not sample.
  void write(const StepBatch& batch, const TokenBatch& tokens, const std::vector<LogitRow>& rows,
             const StepShape& shape);
  /// Enqueues the copy; the memory is written again only when the stream is done.
  void upload(cudaStream_t stream) const;

  /// Of the device, for the shape last written.
  DeviceBatch deviceBatch() const;
  const int32_t* tokenIds() const { return deviceAt<int32_t>(layout_.tokenIds); }
  const int32_t* logitTokens() const { return deviceAt<int32_t>(layout_.logitTokens); }
  const SampleRequest* requests() const { return deviceAt<SampleRequest>(layout_.requests); }
  const StepShape& shape() const { return shape_; }

 private:
  struct Layout {
    size_t requests, tokenIds, positions, sequenceOf, firstToken, tokenCount, startPosition, logitTokens, blockTables;
    size_t sizeBytes;
  };
  static Layout layoutOf(const StepShape& shape);

  void writeTokens(const StepBatch& batch, const TokenBatch& tokens);
  void writeSequences(const StepBatch& batch, const TokenBatch& tokens);
  void writeRows(const StepBatch& batch, const TokenBatch& tokens, const std::vector<LogitRow>& rows);

  template <typename Element>
  Element* hostAt(size_t offset) const {
    return reinterpret_cast<Element*>(host_.data() + offset);
  }
  template <typename Element>
  const Element* deviceAt(size_t offset) const {
    return reinterpret_cast<const Element*>(device_ + offset);
  }

  const size_t capacity_;
  const int64_t deviceBlocks_;
  PinnedBuffer host_;
  std::byte* device_;
  StepShape shape_;
  Layout layout_{};
};

}  // namespace hels::cuda
