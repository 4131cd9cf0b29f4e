// One rank's share of a model. Every range is half-open and comes from the shard plan; nothing here divides by the
// number of ranks.
#pragma once

#include <cstdint>

namespace hels {

/// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return end == begin; }
  bool operator==(const Range&) const = default;
};

/// Ranges may be empty: a rank without heads or without FFN columns is legal.
struct ShardSpec {
  int rank = 0;
  int ranks = 1;
  Range headGroups;  // of ModelSpec::headGroups
  Range ffnColumns;  // of ModelSpec::ffnColumns; both ends multiples of ffnGranule (or ffnColumns itself)
  Range vocabRows;   // of ModelSpec::vocabRows
};

struct ModelSpec;
/// Throws kShapeInvalid naming the field, its value and the allowed range.
void validateShardSpec(const ModelSpec& model, const ShardSpec& shard);

}  // namespace hels
