#include "engine/group_connector.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/text.h"
#include "engine/device_name.h"
#ifdef HELS_HAS_CUDA
#include "base/cuda/device_list.h"
#include "comm/cuda/nccl_communicator.h"
#include "comm/device_communicator.h"
#else
// What an address of NCCL is offered with.
namespace hels::cuda {
class NcclConnector {};
}  // namespace hels::cuda
#endif

namespace hels {
namespace {

constexpr char kSeparator = '|';

#ifdef HELS_HAS_CUDA
/// A host's name can be that of another; the kernel's number of its start is not.
std::string hostIdentity() {
  std::string identity;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> identity;
  return identity;
}
#endif

}  // namespace

GroupConnector::GroupConnector(int rank, int ranks, const std::string& hostname, const std::string& device)
    : host_(rank, ranks, hostname) {
#ifdef HELS_HAS_CUDA
  const std::optional<int> gpu = cudaDeviceOf(device);
  const std::string host = hostIdentity();
  if (!gpu || host.empty()) return;
  try {
    devices_ = std::make_unique<cuda::NcclConnector>(rank, ranks, *gpu);
    gpu_ = host + "/" + cuda::busAddress(*gpu);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDeviceMissing) throw;
    devices_.reset();
  }
#else
  (void)device;
#endif
}

GroupConnector::~GroupConnector() = default;

std::string GroupConnector::address() const {
#ifdef HELS_HAS_CUDA
  if (devices_ != nullptr) return host_.address() + kSeparator + gpu_ + kSeparator + devices_->address();
#endif
  return host_.address();
}

void GroupConnector::abort() noexcept {
  aborted_ = true;
  host_.abort();
#ifdef HELS_HAS_CUDA
  if (devices_ != nullptr) devices_->abort();
#endif
}

std::string GroupConnector::connect(Engine& engine, const std::vector<std::string>& addresses,
                                    std::chrono::milliseconds deadline) {
  const std::string transport = form(engine, addresses, std::chrono::steady_clock::now() + deadline);
  if (!aborted_) return transport;
  engine.abort();
  throw Error(ErrorCode::kAborted, "the forming of the group was aborted");
}

std::string GroupConnector::form(Engine& engine, const std::vector<std::string>& addresses,
                                 std::chrono::steady_clock::time_point deadlineAt) {
  const auto left = [deadlineAt] {
    return std::chrono::ceil<std::chrono::milliseconds>(deadlineAt - std::chrono::steady_clock::now());
  };
  std::vector<GroupAddress> parsed;
  std::vector<std::string> hosts;
  std::vector<std::string> devices;
  for (const std::string& address : addresses) {
    parsed.push_back(parseGroupAddress(address));
    hosts.push_back(parsed.back().host);
    devices.push_back(parsed.back().nccl);
  }
#ifdef HELS_HAS_CUDA
  if (devices_ != nullptr && haveOwnGpus(parsed)) {
    const std::shared_ptr<cuda::DeviceCommunicator> communicator = devices_->connect(devices, left());
    engine.connectDevice(communicator);
    if (communicator->ranks() > 1) engine.connectExchange(host_.connect(hosts, left()));
    return communicator->transport();
  }
#endif
  const std::shared_ptr<Communicator> communicator = host_.connect(hosts, left());
  engine.connect(communicator);
  return communicator->transport();
}

GroupAddress parseGroupAddress(const std::string& text) {
  const auto parts = std::ranges::count(text, kSeparator) + 1;
  require(parts == 1 || parts == 3, ErrorCode::kShapeInvalid,
          "the address " + nameText(text) + " is not one of a rank: it has " + std::to_string(parts) + " parts");
  if (parts == 1) return {.host = text, .gpu = "", .nccl = ""};
  const size_t first = text.find(kSeparator);
  const size_t second = text.find(kSeparator, first + 1);
  return {.host = text.substr(0, first),
          .gpu = text.substr(first + 1, second - first - 1),
          .nccl = text.substr(second + 1)};
}

bool haveOwnGpus(const std::vector<GroupAddress>& addresses) {
  std::vector<std::string> gpus;
  for (const GroupAddress& address : addresses) {
    if (address.gpu.empty() || std::ranges::find(gpus, address.gpu) != gpus.end()) return false;
    gpus.push_back(address.gpu);
  }
  return !gpus.empty();
}

}  // namespace hels
