// The twin of the attention kernels in f64, and scenes that both can play: contents are functions of their coordinates,
// so a sequence is the same in any company. For tests and for hels-native-check.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "kernels/cuda/attention.h"

namespace hels::cuda::twins {

inline float roundTo(DataType type, float value) {
  if (type == DataType::kBf16) return bf16ToF32(f32ToBf16(value));
  if (type == DataType::kF16) return f16ToF32(f32ToF16(value));
  return value;
}

/// Half of the distance of neighbours of 1, relative: what one rounding to the type costs at most.
inline double unitRoundoff(DataType type) {
  return type == DataType::kBf16 ? 0x1p-8 : type == DataType::kF16 ? 0x1p-11 : 0x1p-24;
}

/// About normal, of mean 0 and deviation 1, from the coordinates alone.
inline float valueAt(uint64_t kind, int64_t sequence, int64_t position, int64_t head, int64_t dimension) {
  uint64_t state = kind;
  for (const int64_t coordinate : {sequence, position, head, dimension}) {
    state = (state ^ static_cast<uint64_t>(coordinate)) * 0x9E3779B97F4A7C15U;
    state ^= state >> 29;
    state *= 0xBF58476D1CE4E5B9U;
    state ^= state >> 32;
  }
  float sum = 0.0F;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(state >> (16 * i) & 0xFFFFU) / 65536.0F;
  return (sum - 2.0F) * 1.732F;
}

/// Host values as the bytes of `type`.
inline std::vector<std::byte> encode(DataType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * bytesOf(type));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t narrow = type == DataType::kBf16 ? f32ToBf16(values[i]) : f32ToF16(values[i]);
    const void* from = type == DataType::kF32 ? static_cast<const void*>(&values[i]) : &narrow;
    std::copy_n(static_cast<const std::byte*>(from), bytesOf(type), bytes.data() + i * bytesOf(type));
  }
  return bytes;
}

inline std::vector<float> decode(DataType type, const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / bytesOf(type));
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    std::copy_n(bytes.data() + i * bytesOf(type), bytesOf(type), reinterpret_cast<std::byte*>(&bits));
    values[i] = type == DataType::kF32    ? std::bit_cast<float>(bits)
                : type == DataType::kBf16 ? bf16ToF32(static_cast<uint16_t>(bits))
                                          : f16ToF32(static_cast<uint16_t>(bits));
  }
  return values;
}

template <typename Element>
DeviceBuffer upload(const std::vector<Element>& values) {
  DeviceBuffer buffer(values.size() * sizeof(Element), "test data");
  if (!values.empty()) {
    check(cudaMemcpy(buffer.data(), values.data(), buffer.sizeBytes(), cudaMemcpyHostToDevice), "upload");
  }
  return buffer;
}

template <typename Element>
std::vector<Element> download(const DeviceBuffer& buffer) {
  std::vector<Element> values(buffer.sizeBytes() / sizeof(Element));
  if (!values.empty()) {
    check(cudaMemcpy(values.data(), buffer.data(), buffer.sizeBytes(), cudaMemcpyDeviceToHost), "download");
  }
  return values;
}

/// A sequence of a step: `tokens` tokens from position `start` on. `id` says what is in it.
struct SceneSequence {
  int64_t id = 0;
  int64_t start = 0;
  int64_t tokens = 1;
};

struct SceneOptions {
  DataType type = DataType::kBf16;
  int64_t groups = 2;
  int64_t queryHeadsPerGroup = 3;
  int64_t headDim = 64;
  int64_t blockTokens = 16;
  int64_t window = 0;
  float scale = 0.2F;
  uint64_t placement = 1;      // seed of the blocks' order
  int64_t emptySequences = 0;  // padding of the batch
  int64_t contextMax = 0;      // 0: what the sequences need
};

/// A step in host and device memory. Slots of the cache that no sequence has written hold NaN.
class AttentionScene {
 public:
  AttentionScene(const SceneOptions& options, std::vector<SceneSequence> sequences)
      : options_(options), sequences_(std::move(sequences)) {
    place();
    fill();
  }

  AttentionModel model() const { return {options_.queryHeadsPerGroup, options_.window, options_.scale}; }
  DeviceKv kv() const {
    return {options_.type, keys_.data(),         values_.data(),  options_.groups,
            blocks_,       options_.blockTokens, options_.headDim};
  }
  DeviceBatch batch() const {
    DeviceBatch batch;
    batch.sequences = static_cast<int64_t>(sequences_.size()) + options_.emptySequences;
    for (const SceneSequence& sequence : sequences_) {
      batch.tokens += sequence.tokens;
      batch.tokensPerSequenceMax = std::max(batch.tokensPerSequenceMax, sequence.tokens);
      batch.contextMax = std::max(batch.contextMax, sequence.start + sequence.tokens);
    }
    batch.contextMax = std::max(batch.contextMax, options_.contextMax);
    batch.firstToken = firstToken_.as<int32_t>();
    batch.tokenCount = tokenCount_.as<int32_t>();
    batch.startPosition = startPosition_.as<int32_t>();
    batch.blockTables = blockTables_.as<int32_t>();
    batch.blockTableStride = tableStride_;
    batch.sequenceOf = sequenceOf_.as<int32_t>();
    batch.positions = positions_.as<int32_t>();
    return batch;
  }
  const void* queries() const { return queries_.data(); }
  int64_t queryHeads() const { return options_.groups * options_.queryHeadsPerGroup; }
  int64_t rowElements() const { return queryHeads() * options_.headDim; }

  /// attend(): outputs(tokens, queryHeads, headDim).
  std::vector<float> attended() const {
    const DeviceBatch sizes = batch();
    const DeviceBuffer workspace(attentionWorkspaceBytes(model(), kv(), sizes.sequences, sizes.contextMax), "test");
    const DeviceBuffer output(outputBytes(), "test");
    attend(model(), kv(), sizes, queries(), rowElements(), output.data(), rowElements(), workspace.data(), nullptr);
    check(cudaDeviceSynchronize(), "attention");
    return decode(options_.type, download<std::byte>(output));
  }

  /// The same through parts: those of chunks with `isHere(chunk)` first, then the others.
  template <typename IsHere>
  std::vector<float> attendedInParts(const IsHere& isHere) const {
    const DeviceBatch sizes = batch();
    const int64_t slots = attentionSlots(options_.window, sizes.contextMax);
    const int64_t chunks = attentionSlots(0, sizes.contextMax);
    const auto rows = static_cast<size_t>(sizes.tokens * queryHeads() * slots);
    const DeviceBuffer maxima(rows * sizeof(float), "test");
    const DeviceBuffer sums(rows * sizeof(float), "test");
    const DeviceBuffer outputs(rows * static_cast<size_t>(options_.headDim) * sizeof(float), "test");
    const AttentionParts parts{maxima.as<float>(), sums.as<float>(), outputs.as<float>(), slots};
    for (const bool side : {true, false}) {
      std::vector<uint8_t> here(static_cast<size_t>(sizes.sequences * chunks));
      for (size_t i = 0; i < here.size(); ++i) here[i] = isHere(static_cast<int64_t>(i) % chunks) == side;
      const DeviceBuffer mask = upload(here);
      attendParts(model(), kv(), sizes, queries(), rowElements(), mask.as<uint8_t>(), chunks, parts, nullptr);
      check(cudaDeviceSynchronize(), "attention");
    }
    const DeviceBuffer output(outputBytes(), "test");
    mergeParts(model(), kv(), sizes, parts, output.data(), rowElements(), nullptr);
    check(cudaDeviceSynchronize(), "merge");
    return decode(options_.type, download<std::byte>(output));
  }

  /// attendParts() of all chunks, in f32 as they leave the kernels, of one token: (queryHeads, slots) maxima, sums,
  /// then outputs. Slots that it does not have are 0.
  std::vector<float> partsOf(int64_t token) const {
    const DeviceBatch sizes = batch();
    const int64_t slots = attentionSlots(options_.window, sizes.contextMax);
    const auto row = static_cast<size_t>(queryHeads() * slots);
    const auto rows = static_cast<size_t>(sizes.tokens) * row;
    const auto dims = static_cast<size_t>(options_.headDim);
    const DeviceBuffer numbers = upload(std::vector<float>(rows * (dims + 2)));
    auto* outputs = numbers.as<float>();
    float* maxima = outputs + rows * dims;
    attendParts(model(), kv(), sizes, queries(), rowElements(), nullptr, 0, {maxima, maxima + rows, outputs, slots},
                nullptr);
    check(cudaDeviceSynchronize(), "attention");
    const std::vector<float> all = download<float>(numbers);
    const auto first = static_cast<size_t>(token) * row;
    std::vector<float> result;
    const auto add = [&](size_t from, size_t count) {
      for (size_t i = from; i < from + count; ++i) result.push_back(all[i]);
    };
    add(rows * dims + first, row);
    add(rows * (dims + 1) + first, row);
    add(first * dims, row * dims);
    return result;
  }

  /// What the kernels should give, in f64, and how far their roundings may take them from it.
  struct Expected {
    std::vector<double> output;     // (headDim)
    std::vector<double> tolerance;  // (headDim)
  };
  Expected expected(const SceneSequence& sequence, int64_t offset, int64_t head) const {
    const int64_t position = sequence.start + offset;
    const int64_t first = options_.window == 0 ? 0 : std::max<int64_t>(0, position - options_.window + 1);
    const int64_t group = head / options_.queryHeadsPerGroup;
    std::vector<double> scores;
    for (int64_t seen = first; seen <= position; ++seen) {
      double score = 0;
      for (int64_t d = 0; d < options_.headDim; ++d) {
        score += double{query(sequence.id, position, head, d)} * double{key(sequence.id, seen, group, d)};
      }
      scores.push_back(score * double{options_.scale});
    }
    const double maximum = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    Expected result{std::vector<double>(static_cast<size_t>(options_.headDim)),
                    std::vector<double>(static_cast<size_t>(options_.headDim))};
    for (double& score : scores) sum += score = std::exp(score - maximum);
    for (size_t d = 0; d < result.output.size(); ++d) {
      double magnitude = 0;
      for (int64_t seen = first; seen <= position; ++seen) {
        const double weighted = scores[static_cast<size_t>(seen - first)] / sum *
                                double{value(sequence.id, seen, group, static_cast<int64_t>(d))};
        result.output[d] += weighted;
        magnitude += std::abs(weighted);
      }
      // A rounding of each weight and one of the output; scores and sums are in f32.
      result.tolerance[d] =
          unitRoundoff(options_.type) * (magnitude + std::abs(result.output[d])) + 4e-6 * (1 + magnitude);
    }
    return result;
  }

  const std::vector<SceneSequence>& sequences() const { return sequences_; }

 private:
  float key(int64_t id, int64_t position, int64_t group, int64_t d) const {
    return roundTo(options_.type, valueAt(1, id, position, group, d));
  }
  float value(int64_t id, int64_t position, int64_t group, int64_t d) const {
    return roundTo(options_.type, valueAt(2, id, position, group, d));
  }
  float query(int64_t id, int64_t position, int64_t head, int64_t d) const {
    return roundTo(options_.type, valueAt(3, id, position, head, d));
  }
  size_t outputBytes() const { return static_cast<size_t>(batch().tokens * rowElements()) * bytesOf(options_.type); }

  /// Block tables, as long as the longest sequence needs; entries that a sequence does not need name no block.
  void place() {
    std::vector<int64_t> counts;
    for (const SceneSequence& sequence : sequences_) {
      counts.push_back((sequence.start + sequence.tokens + options_.blockTokens - 1) / options_.blockTokens);
      blocks_ += counts.back();
      tableStride_ = std::max(tableStride_, counts.back());
    }
    ++blocks_;  // one that nobody uses
    std::vector<int32_t> order(static_cast<size_t>(blocks_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(options_.placement));
    tables_.assign(sequences_.size() * static_cast<size_t>(tableStride_), 1 << 30);
    size_t used = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      for (int64_t block = 0; block < counts[i]; ++block) {
        tables_[i * static_cast<size_t>(tableStride_) + static_cast<size_t>(block)] = order[used++];
      }
    }
  }

  void fill() {
    const auto elements = static_cast<size_t>(options_.groups * blocks_ * options_.blockTokens * options_.headDim);
    std::vector<float> keys(elements, std::numeric_limits<float>::quiet_NaN());
    std::vector<float> values = keys;
    std::vector<float> queries;
    std::vector<int32_t> firstToken, tokenCount, startPosition, sequenceOf, positions;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const SceneSequence& sequence = sequences_[i];
      firstToken.push_back(static_cast<int32_t>(sequenceOf.size()));
      tokenCount.push_back(static_cast<int32_t>(sequence.tokens));
      startPosition.push_back(static_cast<int32_t>(sequence.start));
      for (int64_t position = 0; position < sequence.start + sequence.tokens; ++position) {
        const auto entry = i * static_cast<size_t>(tableStride_) + static_cast<size_t>(position / options_.blockTokens);
        for (int64_t group = 0; group < options_.groups; ++group) {
          const int64_t slot =
              (group * blocks_ + tables_[entry]) * options_.blockTokens + position % options_.blockTokens;
          for (int64_t d = 0; d < options_.headDim; ++d) {
            keys[static_cast<size_t>(slot * options_.headDim + d)] = key(sequence.id, position, group, d);
            values[static_cast<size_t>(slot * options_.headDim + d)] = value(sequence.id, position, group, d);
          }
        }
      }
      for (int64_t position = sequence.start; position < sequence.start + sequence.tokens; ++position) {
        sequenceOf.push_back(static_cast<int32_t>(i));
        positions.push_back(static_cast<int32_t>(position));
        for (int64_t head = 0; head < queryHeads(); ++head) {
          for (int64_t d = 0; d < options_.headDim; ++d) queries.push_back(query(sequence.id, position, head, d));
        }
      }
    }
    for (std::vector<int32_t>* array : {&firstToken, &tokenCount, &startPosition}) {
      array->resize(array->size() + static_cast<size_t>(options_.emptySequences), 0);
    }
    keys_ = upload(encode(options_.type, keys));
    values_ = upload(encode(options_.type, values));
    queries_ = upload(encode(options_.type, queries));
    firstToken_ = upload(firstToken);
    tokenCount_ = upload(tokenCount);
    startPosition_ = upload(startPosition);
    sequenceOf_ = upload(sequenceOf);
    positions_ = upload(positions);
    blockTables_ = upload(tables_);
  }

  SceneOptions options_;
  std::vector<SceneSequence> sequences_;
  int64_t blocks_ = 0;
  int64_t tableStride_ = 0;
  std::vector<int32_t> tables_;
  DeviceBuffer keys_, values_, queries_, firstToken_, tokenCount_, startPosition_, sequenceOf_, positions_,
      blockTables_;
};

}  // namespace hels::cuda::twins
