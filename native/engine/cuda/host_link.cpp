#include "engine/cuda/host_link.h"

#include <algorithm>
#include <cstddef>

#include "base/cuda/buffer.h"
#include "base/cuda/device_list.h"
#include "base/cuda/event.h"
#include "base/cuda/stream.h"

namespace hels::cuda {
namespace {

constexpr size_t kBytes = size_t{64} << 20;
constexpr int kRepetitions = 5;  // the first wakes the link

/// The best of some copies: what disturbs a measurement only adds to it.
double copyRate(std::byte* target, const std::byte* source, cudaMemcpyKind kind) {
  const Stream stream;
  const Event begin;
  const Event end;
  double rate = 0;
  for (int i = 0; i < kRepetitions; ++i) {
    begin.record(stream.get());
    check(cudaMemcpyAsync(target, source, kBytes, kind, stream.get()), "copy over the link to the host");
    end.record(stream.get());
    check(cudaStreamSynchronize(stream.get()), "copy over the link to the host");
    rate = std::max(rate, static_cast<double>(kBytes) / std::max(1e-9, end.secondsSince(begin)));
  }
  return rate;
}

}  // namespace

HostLink measureHostLink(int device) {
  useDevice(device);
  const PinnedBuffer host(kBytes, "the measurement of the link to the host");
  const DeviceBuffer memory(kBytes, "the measurement of the link to the host");
  std::fill_n(host.data(), kBytes, std::byte{1});
  HostLink link;
  link.toDevice = copyRate(memory.data(), host.data(), cudaMemcpyHostToDevice);
  link.toHost = copyRate(host.data(), memory.data(), cudaMemcpyDeviceToHost);
  return link;
}

}  // namespace hels::cuda
