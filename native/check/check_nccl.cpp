// NCCL as the engine uses it, as far as the GPU that is here shows it: a group of one rank, its sums alone and in a
// graph, an end from outside, and what becomes of a group that cannot form.
#include <cuda_runtime.h>

#include <chrono>
#include <future>
#include <memory>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/cuda/device_list.h"
#include "base/cuda/stream.h"
#include "base/error.h"
#include "check/sections.h"
#include "check/timing.h"
#include "comm/cuda/nccl_communicator.h"

namespace hels::check {
namespace {

using namespace std::chrono_literals;

/// NCCL reads the topology and makes its channels: some tenths of a second on a bare machine, seconds on a large one.
constexpr std::chrono::seconds kForming{30};
constexpr std::chrono::seconds kStep{10};
constexpr std::chrono::milliseconds kPatience{1500};
/// What an 8B model sums after each half of a layer in a step of 2,048 tokens.
constexpr int64_t kValues = 2048 * 4096;

std::shared_ptr<cuda::DeviceCommunicator> groupOfOne(const Options& options) {
  cuda::NcclConnector connector(0, 1, options.deviceIndex);
  return connector.connect({connector.address()}, kForming);
}

std::vector<int64_t> valuesUpTo(int64_t count) {
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = (i << 20) - i * i;
  return values;
}

/// Sums launched one by one and replayed from a graph leave the values of a single rank as they are.
void checkSums(const Options& options, Item& item) {
  const auto start = Clock::now();
  const std::shared_ptr<cuda::DeviceCommunicator> group = groupOfOne(options);
  item.figure("formingSeconds", std::chrono::duration<double>(Clock::now() - start).count());
  item.figure("transport", group->transport());
  const std::vector<int64_t> values = valuesUpTo(kValues);
  const cuda::DeviceBuffer buffer(values.size() * sizeof(int64_t), "values to sum");
  const cuda::Stream stream;
  cuda::check(cudaMemcpy(buffer.data(), values.data(), buffer.sizeBytes(), cudaMemcpyHostToDevice), "values to sum");
  const auto sum = [&](cudaStream_t on) { group->allReduceSum(buffer.as<int64_t>(), values.size(), on, kStep); };
  sum(stream.get());
  group->synchronize(stream.get(), kStep);
  (void)timeWork(1, [&](int, cudaStream_t on) { sum(on); });
  group->synchronize(stream.get(), kStep);
  std::vector<int64_t> sums(values.size());
  cuda::check(cudaMemcpy(sums.data(), buffer.data(), buffer.sizeBytes(), cudaMemcpyDeviceToHost), "sums");
  item.expect(sums == values, "sums of one rank differ from its values");
}

/// The code of what `action` throws.
template <typename Action>
std::string thrownBy(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return errorCodeName(error.code());
  }
  return "nothing";
}

void checkAbort(const Options& options, Item& item) {
  const std::shared_ptr<cuda::DeviceCommunicator> group = groupOfOne(options);
  const cuda::DeviceBuffer buffer(sizeof(int64_t), "a value to sum");
  const cuda::Stream stream;
  group->abort();
  const std::string thrown = thrownBy([&] { group->allReduceSum(buffer.as<int64_t>(), 1, stream.get(), kStep); });
  item.expect(thrown == "aborted", "a sum after abort() throws " + thrown + " instead of aborted");
  // A new epoch's group in the same process.
  const std::shared_ptr<cuda::DeviceCommunicator> next = groupOfOne(options);
  next->allReduceSum(buffer.as<int64_t>(), 1, stream.get(), kStep);
  next->synchronize(stream.get(), kStep);
}

/// NCCL takes no two ranks on one GPU; they must be told so, both, and soon.
void checkSharedGpu(const Options& options, Item& item) {
  std::vector<std::unique_ptr<cuda::NcclConnector>> connectors;
  std::vector<std::string> addresses;
  for (int rank = 0; rank < 2; ++rank) {
    connectors.push_back(std::make_unique<cuda::NcclConnector>(rank, 2, options.deviceIndex));
    addresses.push_back(connectors.back()->address());
  }
  const auto outcomeOf = [&](size_t rank) {
    cuda::useDevice(options.deviceIndex);
    return thrownBy([&] { (void)connectors[rank]->connect(addresses, kForming); });
  };
  auto second = std::async(std::launch::async, outcomeOf, 1);
  const std::string first = outcomeOf(0);
  item.figure("rank0", first);
  item.figure("rank1", second.get());
  item.expect(first == "shape-invalid", "rank 0 of two on one GPU meets " + first + " instead of shape-invalid");
}

void checkMissingPeer(const Options& options, Item& item) {
  cuda::NcclConnector connector(0, 2, options.deviceIndex);
  const auto start = Clock::now();
  const std::string thrown = thrownBy([&] { (void)connector.connect({connector.address(), "nccl/"}, kPatience); });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  item.figure("seconds", seconds);
  item.expect(thrown == "deadline-exceeded", "without its peer a rank meets " + thrown);
  item.expect(seconds < 2 * std::chrono::duration<double>(kPatience).count(), "the deadline came late");
}

}  // namespace

void checkNccl(const Options& options, Report& report) {
  report.section("NCCL", [&] {
    try {
      const cuda::NcclConnector connector(0, 1, options.deviceIndex);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDeviceMissing) throw;
      return report.skip("NCCL", error.what());
    }
    report.item("sums of one rank", [&](Item& item) { checkSums(options, item); });
    report.item("abort, and a group after it", [&](Item& item) { checkAbort(options, item); });
    report.item("two ranks on one GPU", [&](Item& item) { checkSharedGpu(options, item); });
    report.item("a peer that does not come", [&](Item& item) { checkMissingPeer(options, item); });
  });
}

}  // namespace hels::check
