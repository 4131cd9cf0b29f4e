// Seconds of work on the device: work is captured into a graph, so that gaps between launches are those of a decode
// step, and replays are timed by events.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace hels::check {

struct Timing {
  double seconds = 0;  // median, of one call of the work
  double least = 0;
  double most = 0;
  int samples = 0;
};

struct TimingLimits {
  int samples = 7;
  double sampleSeconds = 2e-3;  // a sample repeats the work until it lasts about so long
  double totalSeconds = 1.0;    // fewer samples, but at least one, when they last longer
};

/// Of a benchmark of many items: short samples; `quick`: a single one, under the emulation of a GPU.
inline TimingLimits shortTiming(bool quick) { return quick ? TimingLimits{1, 0.0, 0.0} : TimingLimits{7, 2e-3, 0.3}; }

/// `work(i)` enqueues call i on the stream; i counts from 0, so that calls may take turns among inputs that together
/// do not fit into the cache. `turns`: how many different ones there are. Runs all turns once before. `stream`: where,
/// for instance a partition's; null: a new one.
Timing timeWork(int turns, const std::function<void(int, cudaStream_t)>& work, const TimingLimits& limits = {},
                cudaStream_t stream = nullptr);

}  // namespace hels::check
