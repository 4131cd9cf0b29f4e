// What the machine allows a model's step, as JSON: bytes a second that the threads read from memory, and seconds of the
// matrix products alone, by bare oneDNN in bf16 over weights in the layout that it likes best.
// ceiling_bench THREADS LAYERS HIDDEN QKV_COLUMNS ATTENTION_COLUMNS FFN_COLUMNS VOCABULARY ROWS... ("256p": prefill,
// logits of one row only)
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

constexpr int kRuns = 5;
constexpr size_t kReadBytesMin = size_t{512} << 20;

/// Memory in large pages where the system has them, all of it written: 0.0115 as bf16.
class Region {
 public:
  explicit Region(size_t sizeBytes) : sizeBytes_(sizeBytes) {
    void* region = mmap(nullptr, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) throw std::runtime_error("no memory for " + std::to_string(sizeBytes) + " bytes");
    madvise(region, sizeBytes, MADV_HUGEPAGE);
    data_ = static_cast<uint64_t*>(region);
    std::fill_n(data_, sizeBytes / 8, 0x3c3c3c3c3c3c3c3cU);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { munmap(data_, sizeBytes_); }
  uint64_t* data() const { return data_; }

 private:
  const size_t sizeBytes_;
  uint64_t* data_ = nullptr;
};

/// A limit is the best of the runs: what else the host does only adds time.
template <typename Body>
double bestSeconds(const Body& body) {
  body();
  double best = std::numeric_limits<double>::infinity();
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  return best;
}

uint64_t sumOf(const uint64_t* begin, const uint64_t* end) {
  uint64_t sums[8] = {};
  for (; begin != end; begin += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += begin[lane];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

double readBytesPerSecond(int threads, size_t bytes) {
  const Region region(bytes);
  const size_t share = bytes / 8 / static_cast<size_t>(threads) / 8 * 8;
  volatile uint64_t sink = 0;
  const double seconds = bestSeconds([&] {
    uint64_t sum = 0;
#pragma omp parallel for schedule(static, 1) reduction(+ : sum)
    for (int thread = 0; thread < threads; ++thread) {
      const uint64_t* begin = region.data() + share * static_cast<size_t>(thread);
      sum += sumOf(begin, begin + share);
    }
    sink = sum;
  });
  return static_cast<double>(share * 8 * static_cast<size_t>(threads)) / seconds;
}

/// `copies` matrices of one shape, each with memory of its own.
struct Matrices {
  int64_t columns, depth, copies;
};

struct Product {
  dnnl::matmul primitive;
  dnnl::memory x, y;
  std::vector<dnnl::memory> weights;
};

class Step {
 public:
  Step(const std::vector<Matrices>& shapes, const std::vector<int64_t>& rows, uint64_t* weights)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    auto* next = reinterpret_cast<std::byte*>(weights);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const auto& [columns, depth, copies] = shapes[i];
      const dnnl::matmul::primitive_desc description({{{rows[i], depth}, Type::bf16, Tag::ab},
                                                      {{depth, columns}, Type::bf16, Tag::any},
                                                      {{rows[i], columns}, Type::f32, Tag::ab}},
                                                     engine_);
      implementation_ = description.impl_info_str();
      Product product{
          dnnl::matmul(description), {description.src_desc(), engine_}, {description.dst_desc(), engine_}, {}};
      std::fill_n(static_cast<uint16_t*>(product.x.get_data_handle()), rows[i] * depth, uint16_t{0x3c3c});
      // The bytes mean the same in every layout.
      for (int64_t copy = 0; copy < copies; ++copy) {
        product.weights.emplace_back(description.weights_desc(), engine_, next);
        next += description.weights_desc().get_size();
      }
      products_.push_back(std::move(product));
    }
  }

  void run() {
    for (Product& product : products_) {
      for (dnnl::memory& weights : product.weights) {
        product.primitive.execute(stream_,
                                  {{DNNL_ARG_SRC, product.x}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, product.y}});
      }
    }
    stream_.wait();
  }

  const std::string& implementation() const { return implementation_; }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<Product> products_;
  std::string implementation_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 9) {
    std::fprintf(stderr, "ceiling_bench THREADS LAYERS HIDDEN QKV ATTENTION FFN VOCABULARY ROWS...\n");
    return 2;
  }
  const int threads = std::atoi(argv[1]);
  omp_set_num_threads(threads);
  const int64_t layers = std::atol(argv[2]), hidden = std::atol(argv[3]), qkv = std::atol(argv[4]),
                attention = std::atol(argv[5]), ffn = std::atol(argv[6]), vocabulary = std::atol(argv[7]);
  const std::vector<Matrices> shapes = {{qkv, hidden, layers},
                                        {hidden, attention, layers},
                                        {2 * ffn, hidden, layers},
                                        {hidden, ffn, layers},
                                        {vocabulary, hidden, 1}};
  size_t elements = 0;
  // Layouts pad columns to blocks of up to 64.
  for (const auto& [columns, depth, copies] : shapes) elements += static_cast<size_t>((columns + 64) * depth * copies);
  const long cacheBytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const size_t readBytes = std::max(kReadBytesMin, size_t{4} * static_cast<size_t>(std::max(0L, cacheBytes)));
  std::printf("{\"threads\": %d, \"readBytes\": %zu, \"readBytesPerSecond\": %.4g, \"steps\": [", threads, readBytes,
              readBytesPerSecond(threads, readBytes));
  const Region weights(elements * sizeof(uint16_t));
  for (int i = 8; i < argc; ++i) {
    const int64_t rows = std::atol(argv[i]);
    const bool prefill = std::string(argv[i]).back() == 'p';
    Step step(shapes, {rows, rows, rows, rows, prefill ? 1 : rows}, weights.data());
    const double seconds = bestSeconds([&] { step.run(); });
    std::printf("%s{\"rows\": %ld, \"prefill\": %s, \"seconds\": %.6f, \"implementation\": \"%s\"}", i == 8 ? "" : ", ",
                static_cast<long>(rows), prefill ? "true" : "false", seconds, step.implementation().c_str());
  }
  std::printf("]}\n");
  return 0;
}
