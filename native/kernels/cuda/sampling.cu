// A row of logits is cut into chunks. First every chunk gives its highest logit and its first one that is not finite;
// then, for rows with a temperature, its best after noise, where the row's favourite lets most tokens be skipped; last
// a warp takes the best chunk. Higher values win, then lower ids: the order of the comparisons does not matter.
#include "kernels/cuda/device.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_noise.h"

namespace hels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kChunk = 4096;
constexpr int kNoToken = 0x7FFFFFFF;

struct Best {
  double value;
  int token;   // kNoToken: none
  int broken;  // the first token whose logit is NaN or infinite; kNoToken: none
};

__device__ __forceinline__ bool better(double value, int token, const Best& best) {
  if (token == kNoToken) return false;
  return best.token == kNoToken || value > best.value || (value == best.value && token < best.token);
}

__device__ __forceinline__ void take(double value, int token, Best& best) {
  if (!better(value, token, best)) return;
  best.value = value;
  best.token = token;
}

/// The best of the warp, in all lanes.
__device__ __forceinline__ Best warpBest(Best best) {
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) {
    const double value = __shfl_xor_sync(kAllLanes, best.value, mask);
    const int token = __shfl_xor_sync(kAllLanes, best.token, mask);
    const int broken = __shfl_xor_sync(kAllLanes, best.broken, mask);
    take(value, token, best);
    best.broken = min(best.broken, broken);
  }
  return best;
}

/// The best of the block, in thread 0.
__device__ __forceinline__ Best blockBest(const Best& mine) {
  __shared__ Best warps[kWarps];
  const Best warp = warpBest(mine);
  const int index = static_cast<int>(threadIdx.x) / kWarpThreads;
  if (threadIdx.x % kWarpThreads == 0) warps[index] = warp;
  __syncthreads();
  Best best{0.0, kNoToken, kNoToken};
  if (threadIdx.x < kWarps) best = warps[threadIdx.x];
  if (index == 0) best = warpBest(best);
  return best;
}

__device__ __forceinline__ Best bestOf(const Best* chunks, int count) {
  Best best{0.0, kNoToken, kNoToken};
  for (int i = static_cast<int>(threadIdx.x) % kWarpThreads; i < count; i += kWarpThreads) {
    take(chunks[i].value, chunks[i].token, best);
    best.broken = min(best.broken, chunks[i].broken);
  }
  return warpBest(best);
}

__global__ void __launch_bounds__(kThreads) highestKernel(Sampling a, Best* chunks) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.y;
  const int begin = static_cast<int>(blockIdx.x) * kChunk;
  const int end = min(begin + kChunk, static_cast<int>(a.columns));
  const float* logits = a.logits + row * a.stride;
  Best best{0.0, kNoToken, kNoToken};
  if (a.requests[row].slot >= 0) {
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
      const float logit = logits[i];
      if (!(fabsf(logit) <= 3.402823466e38F)) best.broken = min(best.broken, a.firstToken + i);
      if (logit == logit) take(static_cast<double>(logit), a.firstToken + i, best);
    }
  }
  best = blockBest(best);
  if (threadIdx.x == 0) chunks[row * gridDim.x + blockIdx.x] = best;
}

/// Replaces the chunk's candidate by the best after noise.
__global__ void __launch_bounds__(kThreads) noisyKernel(Sampling a, const Best* chunks, Best* noisy) {
  __shared__ Best favourite;
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.y;
  const int64_t chunk = row * gridDim.x + blockIdx.x;
  const SampleRequest request = a.requests[row];
  if (request.slot < 0 || !(request.temperature > 0.0F)) {
    if (threadIdx.x == 0) noisy[chunk] = chunks[chunk];
    return;
  }
  const int begin = static_cast<int>(blockIdx.x) * kChunk;
  const int end = min(begin + kChunk, static_cast<int>(a.columns));
  const float* logits = a.logits + row * a.stride;
  const DeviceNoise noise(request.seed, request.position);
  const auto temperature = static_cast<double>(request.temperature);
  if (threadIdx.x < kWarpThreads) {
    const Best highest = bestOf(chunks + row * gridDim.x, static_cast<int>(gridDim.x));
    if (threadIdx.x == 0) {
      favourite = highest;
      if (highest.token != kNoToken) {
        favourite.value = highest.value / temperature + DeviceNoise::value(noise.bits(highest.token));
      }
    }
  }
  __syncthreads();
  Best best{favourite.value, favourite.token, kNoToken};
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
    const double value = static_cast<double>(logits[i]) / temperature;
    const unsigned long long bits = noise.bits(a.firstToken + i);
    if (!(value + DeviceNoise::bound(bits) >= best.value)) continue;
    const double noised = value + DeviceNoise::value(bits);
    if (noised == noised) take(noised, a.firstToken + i, best);
  }
  best = blockBest(best);
  if (threadIdx.x == 0) {
    best.broken = chunks[chunk].broken;
    noisy[chunk] = best;
  }
}

/// One warp for each row.
__global__ void slotsKernel(Sampling a, const Best* chunks, int count) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const Best best = bestOf(chunks + row * count, count);
  for (int64_t rank = threadIdx.x; rank < a.ranks; rank += kWarpThreads) {
    int64_t* slot = a.slots + (row * a.ranks + rank) * kSlotValues;
    double value = 0.0;
    int64_t token = 0;
    if (rank == a.rank && best.broken != kNoToken) {
      value = static_cast<double>(a.logits[row * a.stride + best.broken - a.firstToken]);
      token = -(static_cast<int64_t>(best.broken) + 1);
    } else if (rank == a.rank && best.token != kNoToken) {
      value = best.value;
      token = static_cast<int64_t>(best.token) + 1;
    }
    slot[0] = static_cast<int64_t>(bitsOf(value));
    slot[1] = token;
  }
}

__global__ void keepKernel(Sampling a, int32_t* sampled) {
  letNextStart();
  waitForPrevious();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= a.rows || a.requests[row].slot < 0) return;
  Best best{0.0, kNoToken, kNoToken};
  for (int64_t rank = 0; rank < a.ranks; ++rank) {
    const int64_t* slot = a.slots + (row * a.ranks + rank) * kSlotValues;
    if (slot[1] > 0) take(doubleOf(static_cast<unsigned long long>(slot[0])), static_cast<int>(slot[1] - 1), best);
  }
  if (best.token != kNoToken) sampled[a.requests[row].slot] = best.token;
}

unsigned chunksOf(int64_t columns) { return static_cast<unsigned>((columns + kChunk - 1) / kChunk); }

}  // namespace

size_t samplingWorkspaceBytes(int64_t rows, int64_t columns) {
  return 2 * static_cast<size_t>(rows) * chunksOf(columns) * sizeof(Best);
}

void sampleCandidates(const Sampling& sampling, std::byte* workspace, cudaStream_t stream) {
  if (sampling.rows == 0) return;
  const unsigned chunks = chunksOf(sampling.columns);
  const auto rows = static_cast<unsigned>(sampling.rows);
  Best* best = reinterpret_cast<Best*>(workspace);
  if (chunks > 0) {
    launchEarly(highestKernel, dim3(chunks, rows), dim3(kThreads), 0, stream, sampling, best);
    if (sampling.noise) {
      Best* noisy = best + static_cast<size_t>(rows) * chunks;
      launchEarly(noisyKernel, dim3(chunks, rows), dim3(kThreads), 0, stream, sampling, best, noisy);
      best = noisy;
    }
  }
  launchEarly(slotsKernel, dim3(rows), dim3(kWarpThreads), 0, stream, sampling, best, static_cast<int>(chunks));
}

void keepSampled(const Sampling& sampling, int32_t* sampled, cudaStream_t stream) {
  if (sampling.rows == 0) return;
  constexpr unsigned kKeepThreads = 128;
  const auto blocks = static_cast<unsigned>((sampling.rows + kKeepThreads - 1) / kKeepThreads);
  launchEarly(keepKernel, dim3(blocks), dim3(kKeepThreads), 0, stream, sampling, sampled);
}

}  // namespace hels::cuda
