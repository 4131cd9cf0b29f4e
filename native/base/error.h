// Every failure of the native code is one exception type with a stable code; `binding` turns it into a typed JS error.
#pragma once

#include <stdexcept>
#include <string>

namespace hels {

/// What went wrong, as the caller must act on it. The names cross the bridge as strings (`errorCodeName`).
enum class ErrorCode {
  kModelInvalid,      // a file, tensor or header of the model is missing, truncated or contradictory
  kShapeInvalid,      // an argument does not fit the model or the shard (a caller's mistake)
  kMemoryExceeded,    // the device's memory budget cannot hold what was asked
  kNumericRange,      // NaN, Inf or a partial sum outside the fixed-point range
  kPeerLost,          // a collective's peer closed its connection
  kDeadlineExceeded,  // a collective did not end in time
  kAborted,           // a collective or a step was ended by abort() or close()
  kDeviceLost,        // the accelerator failed; the process can use it no more
  kDeviceMissing,     // a device, its driver or a library for it is missing or too old; the process may go on
  kInternal,          // a broken invariant of ours
};

/// "model-invalid", "shape-invalid", ...
const char* errorCodeName(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Throws Error(code, message) unless `condition` holds.
inline void require(bool condition, ErrorCode code, const std::string& message) {
  if (!condition) throw Error(code, message);
}

}  // namespace hels
