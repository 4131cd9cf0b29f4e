// A change of plans half-way through sequences: unchanged weights are taken over, KV moves to the ranks that own its
// heads now, and the sequences go on with the bits of an undisturbed run.
#include <thread>

#include "comm/gloo_connector.h"
#include "replan_fixture.h"

namespace hels {
namespace {

using namespace reference;

TEST_P(Replan, TwoRanksWithOtherShares) {
  expectSameBits({{{1, 1, 30}, {3, 0, 0}}, {}}, {{{3, 2, 10}, {1, 0, 0}}, kSameTwo});
}

TEST_P(Replan, OnlyOneRangeChanges) {
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 2, 30}, {2, 0, 0}}, kSameTwo});
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 31}, {2, 0, 0}}, kSameTwo});
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo});
}

TEST_P(Replan, NothingChanges) { expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 30}, {2, 0, 0}}, kSameTwo}); }

TEST_P(Replan, RanksThatGetOrLoseAllHeads) {
  expectSameBits({{{0, 1, 10}, {4, 0, 0}}, {}}, {{{4, 1, 10}, {0, 0, 0}}, kSameTwo});
  expectSameBits({{{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {}}, {{{2, 0, 30}, {0, 1, 0}, {2, 0, 0}}, kSameThree});
  expectSameBits({{{2, 0, 10}, {0, 1, 0}, {2, 0, 0}}, {}}, {{{1, 1, 10}, {3, 0, 0}, {0, 1, 0}}, kSameThree});
}

TEST_P(Replan, ARankJoinsAndOneLeaves) {
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {0, -1, 1}});
  expectSameBits({{{4, 0, 0}}, {}}, {{{1, 1, 10}, {3, 0, 0}}, {-1, 0}});
  expectSameBits({{{1, 1, 10}, {0, 1, 0}, {3, 0, 0}}, {}}, {{{2, 0, 10}, {2, 1, 0}}, {2, 0}});
}

TEST_P(Replan, AnotherNumberOfBlocks) {
  EngineOptions fewer = tinyOptions();
  fewer.kvBlocks = 42;
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 30}, {2, 0, 0}}, kSameTwo}, tinyOptions(), fewer);
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo}, fewer, tinyOptions());
  expectSameBits({{{4, 0, 0}}, {}}, {{{4, 0, 0}}, {0}}, fewer, tinyOptions());
}
TEST_P(Replan, AgainAndAgain) {
  RankGroup group(model_, {{2, 1, 30}, {2, 0, 0}});
  feedFirstHalf(group);
  const std::vector<std::vector<RankShare>> plans = {
      {{1, 1, 30}, {3, 0, 0}}, {{4, 1, 30}, {0, 0, 0}}, {{4, 1, 30}, {0, 0, 0}}, {{0, 2, 1}, {4, 0, 0}}};
  for (const std::vector<RankShare>& shares : plans) {
    const std::vector<Range> headGroupsBefore = group.headGroups();
    RankGroup next(model_, shares, std::vector<EngineOptions>(2, tinyOptions()), predecessorsOf(group, kSameTwo));
    next.migrateKv(migrationTo(next, headGroupsBefore, kSameTwo));
    group = std::move(next);  // without a step between
  }
  feedSecondHalf(group);
}

/// The same over what ranks in several processes use.
TEST_P(Replan, OverTcpAndSharedMemory) {
  for (const Transport transport : {Transport::kTcp, Transport::kBest}) {
    RankGroup old(model_, {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}});
    feedFirstHalf(old);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    RankGroup group(model_, {{2, 1, 10}, {0, 1, 0}, {2, 0, 0}}, std::vector<EngineOptions>(3, tinyOptions()),
                    predecessorsOf(old, kSameThree));
    std::vector<std::unique_ptr<GlooConnector>> connectors;
    std::vector<std::string> addresses;
    for (int rank = 0; rank < 3; ++rank) {
      connectors.push_back(std::make_unique<GlooConnector>(rank, 3, "localhost"));
      addresses.push_back(connectors.back()->address());
    }
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        group.engine(rank).connect(connectors[rank]->connect(addresses, std::chrono::seconds(20), transport));
      });
    }
    for (std::thread& thread : threads) thread.join();
    group.migrateKv(migrationTo(group, headGroupsBefore, kSameThree));
    feedSecondHalf(group);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Replan, kReplanModels, replanModelName);

}  // namespace
}  // namespace hels
