// Time of one all-reduce between processes on this host, over TCP and through shared memory: comm_bench [ranks]
// [hostname].
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "process_group.h"

namespace {

using namespace hels;
using Clock = std::chrono::steady_clock;

void measure(Communicator& communicator, size_t count, int repetitions) {
  std::vector<int64_t> values(count, 1);
  std::vector<double> microseconds;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    const auto start = Clock::now();
    communicator.allReduceSum(values, std::chrono::seconds(10));
    microseconds.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::sort(microseconds.begin(), microseconds.end());
  const auto percentile = [&](size_t percent) { return microseconds[microseconds.size() * percent / 100]; };
  if (communicator.rank() > 0) return;
  std::printf("%-13s %2d ranks %9zu bytes: median %7.0f  P95 %7.0f  P99 %7.0f us\n", communicator.transport(),
              communicator.ranks(), count * sizeof(int64_t), percentile(50), percentile(95), percentile(99));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::string hostname = argc > 2 ? argv[2] : "127.0.0.1";
  for (const Transport transport : {Transport::kTcp, Transport::kBest}) {
    const auto body = [&](int, GlooConnector& connector, const std::vector<std::string>& addresses) {
      const auto communicator = connector.connect(addresses, std::chrono::seconds(10), transport);
      for (const size_t count : {128, 512, 2048, 4096, 8192, 32768, 131072, 1048576}) {
        measure(*communicator, count, count > 100'000 ? 50 : 1000);
      }
      return test::kSuccess;
    };
    test::ProcessGroup group(ranks, body, hostname);
    for (int rank = 0; rank < ranks; ++rank) {
      if (group.wait(rank) != test::kSuccess) return EXIT_FAILURE;
    }
  }
  return EXIT_SUCCESS;
}
