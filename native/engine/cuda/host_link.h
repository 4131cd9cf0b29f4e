// The link between a GPU and page-locked memory of its host: what KV that is parked there pays.
#pragma once

namespace hels::cuda {

/// Bytes a second of one direction at a time.
struct HostLink {
  double toDevice = 0;
  double toHost = 0;

  double slower() const { return toDevice < toHost ? toDevice : toHost; }
};

/// Of device `device`, by copies that are long enough to hide their start. Throws kMemoryExceeded, kDeviceMissing,
/// kDeviceLost.
HostLink measureHostLink(int device);

}  // namespace hels::cuda
