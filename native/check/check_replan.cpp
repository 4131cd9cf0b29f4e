// A change of plans half-way through a sequence: what stays is taken over, KV moves, and the bits are those of an
// undisturbed run.
#include <algorithm>
#include <memory>
#include <vector>

#include "check/sections.h"
#include "check/splits.h"
#include "reference/reference_model.h"

namespace hels::check {
namespace {

using reference::RankGroup;
using reference::RankShare;

struct Change {
  const char* name;
  std::vector<RankShare> before;
  std::vector<RankShare> now;
  std::vector<int> from;  // which rank of the plan before each one was; -1: none
};

/// Feeds tokens [begin, end); whether their logits are those of `expected`.
bool feed(RankGroup& group, const std::vector<int32_t>& tokens, const std::vector<float>& expected, int64_t begin,
          int64_t end) {
  StepBatch batch;
  batch.sequences.push_back(reference::sequenceStep(0, {tokens.begin() + begin, tokens.begin() + end}, begin,
                                                    {5, 2, 9, 12, 13, 14, 15, 1, 3, 4}));
  batch.sequences.back().returnLogits = true;
  const std::vector<float> logits = group.step(batch).logits;
  const auto columns = static_cast<int64_t>(expected.size() / tokens.size());
  return std::equal(logits.begin(), logits.end(), expected.begin() + begin * columns, expected.begin() + end * columns);
}

void checkChange(const reference::TinyModel& model, const Change& change, const Options& options, Item& item) {
  const int64_t count = options.quick ? 40 : 150;
  const int64_t half = count / 2 + 1;
  const std::vector<int32_t> tokens = reference::randomTokens(count, model.spec.vocabRows, 5);
  const EngineOptions engine = smallOptions(options.device);
  RankGroup alone(model, {{model.spec.headGroups, 0, 0}}, engine);
  const std::vector<float> expected = reference::prefillLogits(alone, tokens, count);
  RankGroup old(model, change.before, engine);
  item.expect(feed(old, tokens, expected, 0, half), "other bits before the change");
  KvMigration migration;
  for (const int rank : change.from) {
    migration.previousHeadGroups.push_back(rank < 0 ? Range{} : old.headGroups()[static_cast<size_t>(rank)]);
  }
  std::vector<std::unique_ptr<Engine>> engines = old.takeEngines();
  std::vector<std::unique_ptr<Engine>> predecessors(change.from.size());
  for (size_t rank = 0; rank < predecessors.size(); ++rank) {
    if (change.from[rank] >= 0) predecessors[rank] = std::move(engines[static_cast<size_t>(change.from[rank])]);
  }
  RankGroup group(model, change.now, std::vector<EngineOptions>(change.now.size(), engine), std::move(predecessors));
  migration.headGroups = group.headGroups();
  migration.blocks = {{1, 6}, {9, 10}, {12, 16}};
  uint64_t received = 0;
  for (const KvMigrationResult& result : group.migrateKv(migration)) received += result.bytesReceived;
  uint64_t adopted = 0;
  for (size_t rank = 0; rank < group.ranks(); ++rank) adopted += group.engine(rank).report().weightBytesAdopted;
  item.figure("bytesReceived", received);
  item.figure("weightBytesAdopted", adopted);
  item.expect(adopted > 0, "no weights were taken over");
  item.expect(feed(group, tokens, expected, half, count), "other bits after the change");
}

}  // namespace

void checkReplan(const Options& options, Report& report) {
  ModelSpec spec = reference::tinyLlama();
  spec.headDim = 16;
  spec.weightType = DataType::kBf16;
  const reference::TinyModel model = reference::makeTinyModel(spec, 17);
  const Change changes[] = {
      {"heads change hands", {{1, 1, 30}, {3, 0, 0}}, {{3, 2, 10}, {1, 0, 0}}, {0, 1}},
      {"heads stay", {{2, 1, 30}, {2, 0, 0}}, {{2, 2, 30}, {2, 0, 0}}, {0, 1}},
      {"a rank joins", {{4, 0, 0}}, {{1, 1, 10}, {3, 0, 0}}, {-1, 0}},
  };
  report.section("another plan", [&] {
    for (const Change& change : changes) {
      report.item(change.name, [&](Item& item) { checkChange(model, change, options, item); });
    }
  });
}

}  // namespace hels::check
