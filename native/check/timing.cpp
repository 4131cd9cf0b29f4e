#include "check/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "base/cuda/check.h"
#include "base/cuda/event.h"
#include "base/cuda/stream.h"

namespace hels::check {
namespace {

using cuda::check;
using cuda::Event;

class Graph {
 public:
  Graph(int calls, const std::function<void(int, cudaStream_t)>& work, cudaStream_t stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    try {
      for (int i = 0; i < calls; ++i) work(i, stream);
    } catch (...) {
      cudaGraph_t broken = nullptr;
      if (cudaStreamEndCapture(stream, &broken) == cudaSuccess && broken != nullptr) (void)cudaGraphDestroy(broken);
      throw;
    }
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "capture");
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(error, "a captured graph");
  }
  ~Graph() { (void)cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "a captured graph"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

double secondsOf(const Graph& graph, const Event& begin, const Event& end, cudaStream_t stream) {
  begin.record(stream);
  graph.launch(stream);
  end.record(stream);
  check(cudaStreamSynchronize(stream), "measured work");
  return std::max(end.secondsSince(begin), 1e-9);
}

}  // namespace

Timing timeWork(int turns, const std::function<void(int, cudaStream_t)>& work, const TimingLimits& limits,
                cudaStream_t stream) {
  constexpr int kCallsMax = 2048;
  const cuda::Stream own;
  if (stream == nullptr) stream = own.get();
  const Event begin;
  const Event end;
  const auto clockStart = std::chrono::steady_clock::now();
  // Outside of a capture: what is loaded or chosen at the first call is then done.
  for (int i = 0; i < turns; ++i) work(i, stream);
  check(cudaStreamSynchronize(stream), "work before it is measured");

  const Graph once(turns, work, stream);
  const double onceSeconds = secondsOf(once, begin, end, stream) / turns;
  const double wanted = std::clamp(std::ceil(limits.sampleSeconds / onceSeconds / turns), 1.0,
                                   std::max(1.0, static_cast<double>(kCallsMax / turns)));
  const int calls = turns * static_cast<int>(wanted);
  const Graph graph(calls, work, stream);
  if (limits.samples > 1) (void)secondsOf(graph, begin, end, stream);
  std::vector<double> samples;
  for (int i = 0; i < limits.samples; ++i) {
    samples.push_back(secondsOf(graph, begin, end, stream) / calls);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - clockStart;
    if (passed.count() > limits.totalSeconds) break;
  }
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples.front(), samples.back(), static_cast<int>(samples.size())};
}

}  // namespace hels::check
