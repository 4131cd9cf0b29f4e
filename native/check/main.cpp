// hels-native-check: what a person runs first on a new GPU host. Needs no Node, no network and no libraries beside the
// driver.
#include <cstdio>
#include <ctime>

#include "base/cuda/device_list.h"
#include "base/error.h"
#include "check/limits.h"
#include "check/options.h"
#include "check/report.h"
#include "check/sections.h"

namespace hels::check {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kNoDevice = 3;

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

/// Facts of the machine and the build. Throws kDeviceMissing.
void describeDevice(const Options& options, Report& report) {
  const cuda::DeviceList list = cuda::listDevices();
  report.fact("program", "hels-native-check");
  report.fact("date", now());
#ifdef HELS_CUDA_EMULATION
  report.fact("emulated", true);
#else
  report.fact("emulated", false);
#endif
  report.fact("driver", list.driver);
  report.fact("runtime", list.runtime);
  report.fact("architectures", list.architectures);
  if (options.deviceIndex < 0) return;
  require(!list.devices.empty(), ErrorCode::kDeviceMissing, list.reason);
  cuda::useDevice(options.deviceIndex);
  for (const cuda::DeviceFacts& facts : list.devices) {
    if (facts.index != options.deviceIndex) continue;
    Json device = Json::object();
    device.set("name", facts.name).set("multiprocessors", facts.multiprocessors).set("memoryBytes", facts.memoryBytes);
    device.set("computeCapability", std::to_string(facts.major) + "." + std::to_string(facts.minor));
    report.fact("device", std::move(device));
  }
}

int run(const Options& options) {
  Report report(options.json, options.seconds);
  describeDevice(options, report);
  const bool gpu = options.deviceIndex >= 0;
  if (options.kernels && gpu) {
    checkProducts(options, report);
    checkAttention(options, report);
  }
  if (options.goldens) {
    checkModels(options, report);
    checkGoldens(options, report);
  }
  if (options.nccl && gpu) checkNccl(options, report);
  if (options.moves && gpu) {
    checkMoves(options, report);
    checkReplan(options, report);
    checkLent(options, report);
  }
  if (gpu && (options.bench || options.steps || options.partitions)) {
    const DeviceLimits limits = measureLimits(options, report);
    if (options.bench) {
      benchProducts(options, limits, report);
      benchAttention(options, limits, report);
    }
    if (options.steps) benchSteps(options, limits, report);
    if (options.partitions) checkPartitions(options, limits, report);
  }
  report.save();
  std::printf("%s\n", report.failures() == 0 ? "all checks passed" : "some checks FAILED");
  return report.failures() == 0 ? 0 : kFailed;
}

}  // namespace
}  // namespace hels::check

int main(int argc, char** argv) {
  using namespace hels;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const std::string& argument : arguments) {
    if (argument == "--help") {
      std::fputs(check::usage(), stdout);
      return 0;
    }
  }
  try {
    const check::Options options = check::parseOptions(arguments);
    cuda::prepareProcess(options.goldens || options.moves || options.partitions);
    return check::run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "hels-native-check: %s\n", error.what());
    if (error.code() == ErrorCode::kDeviceMissing) return check::kNoDevice;
    return error.code() == ErrorCode::kShapeInvalid ? check::kUsage : check::kFailed;
  }
}
