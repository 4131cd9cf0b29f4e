#include "kernels/cuda/cublas_lt.h"

#include <algorithm>
#include <array>
#include <compare>
#include <limits>
#include <utility>
#include <vector>

#include "base/cuda/check.h"
#include "base/error.h"
#include "kernels/cuda/cublas_lt_api.h"

namespace hels::cuda {
namespace {

constexpr size_t kAlignmentMax = 256;
constexpr int kCandidates = 8;
constexpr int kTuneRepetitions = 5;
// A plan is about a kilobyte; the numbers of rows that decode and prefill meet are far fewer.
constexpr size_t kPlansMax = 4096;

const char* statusText(cublas::Status status) {
  switch (status) {
    case cublas::kSuccess:
      return "success";
    case cublas::kNotInitialized:
      return "not initialized (no usable GPU, or its driver is too old for this library)";
    case cublas::kAllocFailed:
      return "out of memory";
    case cublas::kInvalidValue:
      return "invalid value";
    case cublas::kArchMismatch:
      return "this GPU is too old for the library";
    case cublas::kMappingError:
      return "device memory cannot be reached";
    case cublas::kExecutionFailed:
      return "the kernel failed";
    case cublas::kInternalError:
      return "internal error";
    case cublas::kNotSupported:
      return "not supported";
  }
  return "unknown status";
}

ErrorCode codeOf(cublas::Status status) {
  switch (status) {
    case cublas::kAllocFailed:
      return ErrorCode::kMemoryExceeded;
    case cublas::kNotInitialized:
    case cublas::kArchMismatch:
      return ErrorCode::kDeviceMissing;
    case cublas::kMappingError:
    case cublas::kExecutionFailed:
      return ErrorCode::kDeviceLost;
    default:
      return ErrorCode::kInternal;
  }
}

void checkStatus(cublas::Status status, const std::string& what) {
  require(status == cublas::kSuccess, codeOf(status),
          "cuBLASLt, " + what + ": " + statusText(status) + " (status " + std::to_string(status) + ")");
}

cublas::DataKind kindOf(DataType type) {
  if (type == DataType::kF32) return cublas::kReal32F;
  return type == DataType::kBf16 ? cublas::kReal16Bf : cublas::kReal16F;
}

/// The largest power of two up to kAlignmentMax that divides the address.
uint32_t alignmentOf(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer) | kAlignmentMax;
  return static_cast<uint32_t>(address & (~address + 1));
}

std::string productText(const CublasProduct& product) {
  return "product of " + std::to_string(product.rows) + " rows, " + std::to_string(product.columns) +
         " columns, depth " + std::to_string(product.depth) + ", " + dataTypeName(product.inputType) + " to " +
         dataTypeName(product.outputType);
}

void validate(const CublasProduct& product, std::span<std::byte> workspace) {
  constexpr int64_t kSizeMax = std::numeric_limits<int32_t>::max();
  const auto sized = [](int64_t size) { return 0 <= size && size <= kSizeMax; };
  require(sized(product.rows) && sized(product.columns) && sized(product.depth), ErrorCode::kShapeInvalid,
          productText(product) + ": every size must be 0 to " + std::to_string(kSizeMax));
  const auto strided = [](const char* name, int64_t stride, int64_t width) {
    require(stride >= width && stride <= kSizeMax, ErrorCode::kShapeInvalid,
            std::string(name) + " is " + std::to_string(stride) + "; it must be " + std::to_string(width) +
                " (the row) to " + std::to_string(kSizeMax));
  };
  strided("xStride", product.xStride, product.depth);
  strided("weightStride", product.weightStride, product.depth);
  strided("yStride", product.yStride, product.columns);
  require(product.outputType == product.inputType || product.outputType == DataType::kF32, ErrorCode::kShapeInvalid,
          std::string("outputType is ") + dataTypeName(product.outputType) + "; it must be f32 or the input's " +
              dataTypeName(product.inputType));
  require(workspace.empty() || alignmentOf(workspace.data()) == kAlignmentMax, ErrorCode::kShapeInvalid,
          "the workspace must be aligned to 256 bytes");
  const bool aligned = alignmentOf(product.x) >= bytesOf(product.inputType) &&
                       alignmentOf(product.weights) >= bytesOf(product.inputType) &&
                       alignmentOf(product.y) >= bytesOf(product.outputType);
  require(aligned, ErrorCode::kShapeInvalid, productText(product) + ": a matrix is not aligned to its elements");
}

/// A sum over nothing is zero.
void clear(const CublasProduct& product, cudaStream_t stream) {
  const size_t rowBytes = static_cast<size_t>(product.columns) * bytesOf(product.outputType);
  const size_t strideBytes = static_cast<size_t>(product.yStride) * bytesOf(product.outputType);
  auto* y = static_cast<std::byte*>(product.y);
  if (rowBytes == strideBytes) {
    check(cudaMemsetAsync(y, 0, rowBytes * static_cast<size_t>(product.rows), stream), "clearing a product");
    return;
  }
  for (int64_t row = 0; row < product.rows; ++row) {
    check(cudaMemsetAsync(y + static_cast<size_t>(row) * strideBytes, 0, rowBytes, stream), "clearing a product");
  }
}

/// A pair of events around work in a stream.
class Stopwatch {
 public:
  Stopwatch() {
    check(cudaEventCreateWithFlags(&start_, cudaEventDefault), "event");
    check(cudaEventCreateWithFlags(&end_, cudaEventDefault), "event");
  }
  ~Stopwatch() {
    (void)cudaEventDestroy(start_);
    (void)cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <typename Work>
  double seconds(cudaStream_t stream, const Work& work) {
    check(cudaEventRecord(start_, stream), "event");
    work();
    check(cudaEventRecord(end_, stream), "event");
    check(cudaEventSynchronize(end_), "a measured product");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, end_), "event");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t start_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace

/// What the choice of an algorithm depends on.
struct CublasLt::Shape {
  int64_t rows, columns, depth, xStride, weightStride, yStride;
  DataType inputType, outputType;
  bool accumulate;
  uint32_t xAlignment, weightAlignment, yAlignment;
  size_t workspaceBytes;

  auto operator<=>(const Shape&) const = default;  // NOLINT(modernize-use-nullptr): in what is generated
};

class CublasLt::Library {
 public:
  Library(const LibrarySearch& search, int multiprocessors)
      : library_(DynamicLibrary::open("cuBLASLt", sonames(), search)),
        api_(library_),
        multiprocessors_(multiprocessors) {
    // The library works in the device's primary context, which the runtime makes on first use.
    check(cudaFree(nullptr), "start of the device");
    checkStatus(api_.create(&handle_), "start of " + library_.path());
  }
  ~Library() { (void)api_.destroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const cublas::Api& api() const { return api_; }
  cublas::Handle* handle() const { return handle_; }
  int multiprocessors() const { return multiprocessors_; }
  const std::string& path() const { return library_.path(); }

 private:
  DynamicLibrary library_;
  cublas::Api api_;
  int multiprocessors_;
  cublas::Handle* handle_ = nullptr;
};

/// The library's descriptions of one shape, and the algorithms it proposes. The library is column-major: there, W is
/// (depth, columns) and read transposed, x is (depth, rows), and the result (columns, rows) is y row by row.
class CublasLt::Plan {
 public:
  Plan(const Library& library, const Shape& shape, const std::string& what) : library_(library) {
    try {
      describe(shape);
      propose(shape, what);
    } catch (...) {
      release();
      throw;
    }
  }
  ~Plan() { release(); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  size_t candidates() const { return candidates_.size(); }
  void choose(size_t candidate) { chosen_ = candidate; }

  cublas::Status run(const CublasProduct& product, std::span<std::byte> workspace, size_t candidate,
                     cudaStream_t stream) const {
    const float one = 1.0F;
    const float addend = product.accumulate ? 1.0F : 0.0F;
    const cublas::HeuristicResult& result = candidates_[candidate];
    return library_.api().matmul(library_.handle(), desc_, &one, product.weights, weights_, product.x, x_, &addend,
                                 product.y, y_, product.y, y_, &result.algorithm, workspace.data(),
                                 result.workspaceBytes, stream);
  }
  cublas::Status run(const CublasProduct& product, std::span<std::byte> workspace, cudaStream_t stream) const {
    return run(product, workspace, chosen_, stream);
  }

 private:
  void describe(const Shape& shape) {
    const cublas::Api& api = library_.api();
    checkStatus(api.descCreate(&desc_, cublas::kCompute32F, cublas::kReal32F), "description of a product");
    setDesc(cublas::kTransposeA, cublas::kOperationTransposed);
    if (library_.multiprocessors() > 0) setDesc(cublas::kMultiprocessorTarget, library_.multiprocessors());
    weights_ = layout(kindOf(shape.inputType), shape.depth, shape.columns, shape.weightStride);
    x_ = layout(kindOf(shape.inputType), shape.depth, shape.rows, shape.xStride);
    y_ = layout(kindOf(shape.outputType), shape.columns, shape.rows, shape.yStride);
  }

  void propose(const Shape& shape, const std::string& what) {
    const cublas::Api& api = library_.api();
    checkStatus(api.preferenceCreate(&preference_), "preferences");
    setPreference(cublas::kWorkspaceBytesMax, static_cast<uint64_t>(shape.workspaceBytes));
    // Partial sums of a split depth must not be rounded to 16 bits before they are added.
    const bool wide = shape.outputType == DataType::kF32;
    setPreference(cublas::kReductionSchemes, wide ? cublas::kReduceAnyhow : cublas::kReduceInComputeType);
    setPreference(cublas::kAlignmentA, shape.weightAlignment);
    setPreference(cublas::kAlignmentB, shape.xAlignment);
    setPreference(cublas::kAlignmentC, shape.yAlignment);
    setPreference(cublas::kAlignmentD, shape.yAlignment);
    std::array<cublas::HeuristicResult, kCandidates> results{};
    int count = 0;
    checkStatus(
        api.heuristic(library_.handle(), desc_, weights_, x_, y_, y_, preference_, kCandidates, results.data(), &count),
        "choice of an algorithm for the " + what);
    for (int i = 0; i < std::min(count, kCandidates); ++i) {
      const cublas::HeuristicResult& result = results[static_cast<size_t>(i)];
      if (result.state == cublas::kSuccess && result.workspaceBytes <= shape.workspaceBytes)
        candidates_.push_back(result);
    }
    require(!candidates_.empty(), ErrorCode::kInternal, "cuBLASLt has no algorithm for the " + what);
  }

  void setDesc(cublas::MatmulDescAttribute attribute, int32_t value) {
    checkStatus(library_.api().descSet(desc_, attribute, &value, sizeof(value)), "attribute of a product");
  }
  template <typename Value>
  void setPreference(cublas::PreferenceAttribute attribute, Value value) {
    checkStatus(library_.api().preferenceSet(preference_, attribute, &value, sizeof(value)), "preference");
  }
  cublas::MatrixLayout* layout(cublas::DataKind kind, int64_t rows, int64_t columns, int64_t stride) const {
    cublas::MatrixLayout* layout = nullptr;
    checkStatus(
        library_.api().layoutCreate(&layout, kind, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride),
        "description of a matrix");
    return layout;
  }

  void release() noexcept {
    const cublas::Api& api = library_.api();
    if (preference_ != nullptr) (void)api.preferenceDestroy(preference_);
    for (cublas::MatrixLayout* layout : {weights_, x_, y_}) {
      if (layout != nullptr) (void)api.layoutDestroy(layout);
    }
    if (desc_ != nullptr) (void)api.descDestroy(desc_);
  }

  const Library& library_;
  cublas::MatmulDesc* desc_ = nullptr;
  cublas::MatrixLayout* weights_ = nullptr;
  cublas::MatrixLayout* x_ = nullptr;
  cublas::MatrixLayout* y_ = nullptr;
  cublas::Preference* preference_ = nullptr;
  std::vector<cublas::HeuristicResult> candidates_;  // best first, as the library guesses
  size_t chosen_ = 0;
};

CublasLt::CublasLt(int multiprocessors, const LibrarySearch& search)
    : library_(std::make_unique<Library>(search, multiprocessors)) {}

CublasLt::~CublasLt() = default;

std::vector<std::string> CublasLt::sonames() { return {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"}; }

CublasLt::Plan& CublasLt::plan(const CublasProduct& product, size_t workspaceBytes) {
  const Shape shape{.rows = product.rows,
                    .columns = product.columns,
                    .depth = product.depth,
                    .xStride = product.xStride,
                    .weightStride = product.weightStride,
                    .yStride = product.yStride,
                    .inputType = product.inputType,
                    .outputType = product.outputType,
                    .accumulate = product.accumulate,
                    .xAlignment = alignmentOf(product.x),
                    .weightAlignment = alignmentOf(product.weights),
                    .yAlignment = alignmentOf(product.y),
                    .workspaceBytes = std::min(workspaceBytes, kWorkspaceBytes)};
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return *found->second;
  if (plans_.size() >= kPlansMax) plans_.clear();
  return *plans_.emplace(shape, std::make_unique<Plan>(*library_, shape, productText(product))).first->second;
}

void CublasLt::multiply(const CublasProduct& product, std::span<std::byte> workspace, cudaStream_t stream) {
  validate(product, workspace);
  if (product.rows == 0 || product.columns == 0) return;
  if (product.depth == 0) {
    if (!product.accumulate) clear(product, stream);
    return;
  }
  checkStatus(plan(product, workspace.size()).run(product, workspace, stream), productText(product));
}

double CublasLt::tune(const CublasProduct& product, std::span<std::byte> workspace, cudaStream_t stream) {
  validate(product, workspace);
  require(product.rows > 0 && product.columns > 0 && product.depth > 0, ErrorCode::kShapeInvalid,
          productText(product) + ": there is nothing to measure");
  Plan& chosen = plan(product, workspace.size());
  Stopwatch stopwatch;
  double best = std::numeric_limits<double>::infinity();
  for (size_t candidate = 0; candidate < chosen.candidates(); ++candidate) {
    const auto run = [&] { return chosen.run(product, workspace, candidate, stream); };
    // The first run loads the kernel. Some of what the heuristic proposes is refused then.
    if (const cublas::Status status = run(); status != cublas::kSuccess) {
      require(codeOf(status) != ErrorCode::kDeviceLost, ErrorCode::kDeviceLost, productText(product));
      continue;
    }
    double seconds = std::numeric_limits<double>::infinity();
    for (int repetition = 0; repetition < kTuneRepetitions; ++repetition) {
      // In a model other weights have passed through the cache since this product's last turn.
      check(cudaMemsetAsync(workspace.data(), 0, workspace.size(), stream), "clearing the workspace");
      const auto measured = [&] { checkStatus(run(), productText(product)); };
      seconds = std::min(seconds, stopwatch.seconds(stream, measured));
    }
    if (seconds < best) {
      best = seconds;
      chosen.choose(candidate);
    }
  }
  require(best < std::numeric_limits<double>::infinity(), ErrorCode::kInternal,
          "no algorithm of cuBLASLt runs the " + productText(product));
  return best;
}

std::string CublasLt::describe() const {
  const size_t version = library_->api().getVersion();
  // 130101 is 13.1.1; the digits of versions before 12 are ambiguous.
  std::string text = std::to_string(version);
  if (version >= 100000) {
    text = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100);
  }
  return "cuBLASLt " + text + " (" + library_->path() + ")";
}

}  // namespace hels::cuda
