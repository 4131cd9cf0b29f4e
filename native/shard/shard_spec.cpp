#include "shard/shard_spec.h"

#include <string>

#include "base/error.h"
#include "base/text.h"
#include "model/model_spec.h"

namespace hels {
namespace {

void validateRange(const char* field, const Range& range, int64_t size) {
  require(0 <= range.begin && range.begin <= range.end && range.end <= size, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + rangeText(range.begin, range.end) + "; it must lie within " +
              rangeText(0, size) + " and not end before it begins");
}

void validateGranule(const char* field, int64_t column, const ModelSpec& model) {
  require(column % model.ffnGranule == 0 || column == model.ffnColumns, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + std::to_string(column) + "; it must be a multiple of ffnGranule " +
              std::to_string(model.ffnGranule) + " or ffnColumns " + std::to_string(model.ffnColumns));
}

}  // namespace

void validateShardSpec(const ModelSpec& model, const ShardSpec& shard) {
  require(shard.ranks >= 1, ErrorCode::kShapeInvalid,
          "ranks is " + std::to_string(shard.ranks) + "; it must be 1 or more");
  require(0 <= shard.rank && shard.rank < shard.ranks, ErrorCode::kShapeInvalid,
          "rank is " + std::to_string(shard.rank) + "; it must lie within " + rangeText(0, shard.ranks));
  validateRange("headGroups", shard.headGroups, model.headGroups);
  validateRange("ffnColumns", shard.ffnColumns, model.ffnColumns);
  validateRange("vocabRows", shard.vocabRows, model.vocabRows);
  validateGranule("ffnColumns.begin", shard.ffnColumns.begin, model);
  validateGranule("ffnColumns.end", shard.ffnColumns.end, model);
}

}  // namespace hels
