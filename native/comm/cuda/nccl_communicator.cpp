#include "comm/cuda/nccl_communicator.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/cuda/device_list.h"
#include "base/error.h"
#include "comm/cuda/nccl_api.h"
#include "comm/cuda/nccl_log.h"
#include "comm/cuda/stream_wait.h"

namespace hels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kAddressMark = "nccl/";
/// Kernels that have been told to end do so within microseconds; a rank's other work in the stream comes before that.
constexpr std::chrono::seconds kEnding{5};
/// An enqueueing call that takes longer is held up by a full stream, that is by the very peer that abort() gives up on.
constexpr std::chrono::seconds kEnqueueing{1};

std::string millisecondsText(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

std::string hexOf(const nccl::UniqueId& id) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : id.bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += {kDigits[value >> 4], kDigits[value & 15U]};
  }
  return text;
}

/// Nothing unless `text` is what hexOf() makes.
std::optional<nccl::UniqueId> idOf(std::string_view text) {
  nccl::UniqueId id{};
  if (text.size() != 2 * sizeof(id.bytes)) return std::nullopt;
  const auto digit = [](char character) {
    if ('0' <= character && character <= '9') return character - '0';
    return 'a' <= character && character <= 'f' ? character - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < sizeof(id.bytes); ++i) {
    const int high = digit(text[2 * i]);
    const int low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    id.bytes[i] = static_cast<char>(high * 16 + low);
  }
  return id;
}

ErrorCode codeOf(nccl::Status status) {
  switch (status) {
    case nccl::kUnhandledCudaError:
      return ErrorCode::kDeviceLost;
    case nccl::kSystemError:
    case nccl::kRemoteError:
      return ErrorCode::kPeerLost;
    case nccl::kInvalidUsage:
    case nccl::kInvalidArgument:
      return ErrorCode::kShapeInvalid;
    default:
      return ErrorCode::kInternal;
  }
}

Error formingAborted() { return {ErrorCode::kAborted, "the forming of the group was aborted"}; }

/// Calls `end` on a thread of its own: NCCL first tells its kernels to end, and then waits until the graphs that hold
/// sums of the communicator are destroyed. The future is ready when it is done; nobody has to wait for it.
template <typename End>
std::future<void> inBackground(const End& end) {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> future = done->get_future();
  std::thread([done, end] {
    end();
    done->set_value();
  }).detach();
  return future;
}

}  // namespace

class NcclConnector::Library {
 public:
  explicit Library(const LibrarySearch& search)
      : library_(DynamicLibrary::open("NCCL", NcclConnector::sonames(), search)), api_(library_) {
    check(api_.getVersion(&version_), nullptr, "version");
  }

  const nccl::Api& api() const { return api_; }

  /// Throws unless `status` is a success, with NCCL's own words.
  void check(nccl::Status status, nccl::Communicator* communicator, const std::string& what) const {
    if (status == nccl::kSuccess || status == nccl::kInProgress) return;
    const char* last = api_.getLastError(communicator);
    throw Error(codeOf(status), "NCCL, " + what + ": " + api_.getErrorString(status) +
                                    (last != nullptr && *last != '\0' ? std::string(": ") + last : std::string()) +
                                    " (status " + std::to_string(status) + ")");
  }

  /// "2.28.3"
  std::string versionText() const {
    // Up to 2.8 the digits were fewer: 2804.
    const int major = version_ >= 10000 ? version_ / 10000 : version_ / 1000;
    const int rest = version_ >= 10000 ? version_ % 10000 : version_ % 1000;
    return std::to_string(major) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
  }

 private:
  DynamicLibrary library_;
  nccl::Api api_;
  int version_ = 0;
};

class NcclConnector::Communicator final : public DeviceCommunicator {
 public:
  Communicator(int rank, int ranks, std::shared_ptr<const Library> library, nccl::Communicator* communicator,
               std::string transport)
      : rank_(rank),
        ranks_(ranks),
        transport_(std::move(transport)),
        library_(std::move(library)),
        communicator_(communicator) {}
  ~Communicator() override {
    nccl::Communicator* communicator = communicator_.exchange(nullptr);
    if (communicator == nullptr) return;
    const auto end = pending_ ? library_->api().abort : library_->api().destroy;
    // With graphs still there it goes on when they are gone.
    (void)inBackground([library = library_, end, communicator] { (void)end(communicator); }).wait_for(kEnding);
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const override { return rank_; }
  int ranks() const override { return ranks_; }
  std::string transport() const override { return transport_; }

  void allReduceSum(int64_t* values, size_t count, cudaStream_t stream,
                    std::chrono::nanoseconds /*deadline*/) override {
    try {
      const std::lock_guard lock(mutex_);
      nccl::Communicator* communicator = alive();
      pending_ = true;
      library_->check(library_->api().allReduce(values, values, count, nccl::kInt64, nccl::kSum, communicator, stream),
                      communicator, "sum of " + std::to_string(count) + " values");
    } catch (const Error&) {
      end();
      throw;
    }
  }

  void synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) override {
    try {
      const auto look = [this] { requireHealthy(); };
      if (!waitForStream(stream, Clock::now() + deadline, look)) {
        throw Error(ErrorCode::kDeadlineExceeded, "rank " + std::to_string(rank_) + " of " + std::to_string(ranks_) +
                                                      ": the step did not end within " + millisecondsText(deadline));
      }
      look();
      pending_ = false;
    } catch (const Error& error) {
      end();
      // Whoever catches this may free what the kernels use.
      if (error.code() != ErrorCode::kDeviceLost) (void)waitForStream(stream, Clock::now() + kEnding);
      throw;
    }
  }

  void abort() noexcept override {
    aborted_.store(true);
    end();
  }

 private:
  /// Throws kAborted when it has ended.
  nccl::Communicator* alive() const {
    nccl::Communicator* communicator = communicator_.load();
    require(!aborted_ && communicator != nullptr, ErrorCode::kAborted, "the collective was aborted");
    return communicator;
  }

  void requireHealthy() {
    const std::lock_guard lock(mutex_);
    nccl::Communicator* communicator = alive();
    nccl::Status failure = nccl::kSuccess;
    library_->check(library_->api().getAsyncError(communicator, &failure), communicator, "state of the group");
    library_->check(failure, communicator, "state of the group");
  }

  /// Tells NCCL's kernels to end. The communicator is dead after it.
  void end() noexcept {
    const std::unique_lock lock(mutex_, kEnqueueing);
    nccl::Communicator* communicator = communicator_.exchange(nullptr);
    if (communicator == nullptr) return;
    (void)inBackground([library = library_, communicator] { (void)library->api().abort(communicator); });
  }

  const int rank_;
  const int ranks_;
  const std::string transport_;
  const std::shared_ptr<const Library> library_;
  std::timed_mutex mutex_;  // a call into NCCL is under way
  std::atomic<nccl::Communicator*> communicator_;
  std::atomic<bool> aborted_{false};
  bool pending_ = false;  // sums may run in a stream
};

/// A group that is being formed on a thread of its own, which outlives a deadline.
struct NcclConnector::Forming {
  std::timed_mutex calling;  // a call of the first sum into NCCL is under way
  std::mutex mutex;
  std::condition_variable changed;
  nccl::Communicator* communicator = nullptr;  // whoever takes it ends it
  bool formed = false;
  bool aborted = false;    // nobody is to wait
  bool abandoned = false;  // nobody waits any longer
  std::optional<Error> failure;

  /// False: it was abandoned, and the communicator stays the caller's.
  bool offer(nccl::Communicator* made) {
    const std::lock_guard lock(mutex);
    if (!abandoned) communicator = made;
    return !abandoned;
  }
  void succeed() {
    const std::lock_guard lock(mutex);
    formed = true;
    changed.notify_all();
  }
  void fail(const Error& error) {
    const std::lock_guard lock(mutex);
    failure = error;
    changed.notify_all();
  }

  void sumOnce(const Library& library, nccl::Communicator* made, int ranks);
  static void run(Forming& forming, const Library& library, const nccl::UniqueId& id, int rank, int ranks, int device);
};

/// NCCL connects two ranks when they first sum: here, under the deadline of connect().
void NcclConnector::Forming::sumOnce(const Library& library, nccl::Communicator* made, int ranks) {
  const DeviceBuffer value(sizeof(int64_t), "the first sum with other ranks");
  cudaStream_t stream = nullptr;
  const std::string what = "first sum of the group";
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), what);
  const std::unique_ptr<std::remove_pointer_t<cudaStream_t>, void (*)(cudaStream_t)> owner(
      stream, [](cudaStream_t ended) { (void)cudaStreamDestroy(ended); });
  int64_t sum = 1;
  cuda::check(cudaMemcpyAsync(value.data(), &sum, sizeof(sum), cudaMemcpyHostToDevice, stream), what);
  {
    const std::lock_guard lock(calling);
    library.check(library.api().allReduce(value.data(), value.data(), 1, nccl::kInt64, nccl::kSum, made, stream), made,
                  what);
  }
  cuda::check(cudaMemcpyAsync(&sum, value.data(), sizeof(sum), cudaMemcpyDeviceToHost, stream), what);
  cuda::check(cudaStreamSynchronize(stream), what);
  require(sum == ranks, ErrorCode::kInternal,
          what + ": " + std::to_string(ranks) + " ranks with 1 each sum to " + std::to_string(sum));
}

void NcclConnector::Forming::run(Forming& forming, const Library& library, const nccl::UniqueId& id, int rank,
                                 int ranks, int device) {
  try {
    useDevice(device);
    nccl::Communicator* made = nullptr;
    const nccl::Status status = library.api().initRank(&made, ranks, id, rank);
    library.check(status, nullptr,
                  "forming the group as rank " + std::to_string(rank) + " of " + std::to_string(ranks) +
                      " on cuda:" + std::to_string(device));
    if (!forming.offer(made)) {
      (void)library.api().abort(made);
      return;
    }
    forming.sumOnce(library, made, ranks);
    forming.succeed();
  } catch (const Error& error) {
    forming.fail(error);
  } catch (const std::exception& error) {
    forming.fail(Error(ErrorCode::kInternal, error.what()));
  }
}

NcclConnector::NcclConnector(int rank, int ranks, int device, const LibrarySearch& search)
    : rank_(rank), ranks_(ranks), device_(device), address_(kAddressMark), forming_(std::make_shared<Forming>()) {
  require(ranks >= 1 && 0 <= rank && rank < ranks, ErrorCode::kShapeInvalid,
          "rank is " + std::to_string(rank) + " of " + std::to_string(ranks) + "; it must be 0 to ranks - 1");
  (void)NcclLog::instance();
  library_ = std::make_shared<const Library>(search);
  if (rank > 0) return;
  nccl::UniqueId id{};
  library_->check(library_->api().getUniqueId(&id), nullptr, "address of the group");
  address_ += hexOf(id);
}

NcclConnector::~NcclConnector() = default;

const std::string& NcclConnector::address() const { return address_; }

std::shared_ptr<DeviceCommunicator> NcclConnector::connect(const std::vector<std::string>& addresses,
                                                           std::chrono::nanoseconds deadline) {
  require(addresses.size() == static_cast<size_t>(ranks_), ErrorCode::kShapeInvalid,
          "there are " + std::to_string(addresses.size()) + " addresses for " + std::to_string(ranks_) + " ranks");
  for (const std::string& address : addresses)
    require(address.starts_with(kAddressMark), ErrorCode::kShapeInvalid,
            "a rank's address is not NCCL's: all ranks of a group must use it, or none");
  const std::optional<nccl::UniqueId> id = idOf(std::string_view(addresses[0]).substr(kAddressMark.size()));
  require(id.has_value(), ErrorCode::kShapeInvalid, "the address of rank 0 is not one of a group's first rank");
  const std::shared_ptr<Forming> forming = forming_;
  {
    const std::lock_guard lock(forming->mutex);
    if (forming->aborted) throw formingAborted();
  }
  std::thread([forming, library = library_, id = *id, rank = rank_, ranks = ranks_, device = device_] {
    Forming::run(*forming, *library, id, rank, ranks, device);
  }).detach();

  std::unique_lock lock(forming->mutex);
  const bool inTime = forming->changed.wait_for(
      lock, deadline, [&] { return forming->formed || forming->failure || forming->aborted; });
  nccl::Communicator* communicator = std::exchange(forming->communicator, nullptr);
  const std::string connections = connectionsInLog(NcclLog::instance().take());
  const bool aborted = forming->aborted;
  if (forming->formed && !aborted) {
    return std::make_shared<Communicator>(rank_, ranks_, library_, communicator,
                                          "nccl " + library_->versionText() + " (" + NcclLog::instance().pinned() +
                                              ")" + (connections.empty() ? "" : ", " + connections));
  }
  forming->abandoned = true;
  lock.unlock();
  if (communicator != nullptr) {
    (void)inBackground([library = library_, forming, communicator] {
      const std::unique_lock calls(forming->calling, kEnqueueing);
      (void)library->api().abort(communicator);
    });
  }
  if (aborted) throw formingAborted();
  if (inTime) throw *forming->failure;
  throw Error(ErrorCode::kDeadlineExceeded, "rank " + std::to_string(rank_) + ": the group of " +
                                                std::to_string(ranks_) + " ranks did not form within " +
                                                millisecondsText(deadline));
}

void NcclConnector::abort() noexcept {
  {
    const std::lock_guard lock(forming_->mutex);
    forming_->aborted = true;
  }
  forming_->changed.notify_all();
}

}  // namespace hels::cuda
