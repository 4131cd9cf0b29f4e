#include "base/error.h"

namespace hels {

const char* errorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kModelInvalid:
      return "model-invalid";
    case ErrorCode::kShapeInvalid:
      return "shape-invalid";
    case ErrorCode::kMemoryExceeded:
      return "memory-exceeded";
    case ErrorCode::kNumericRange:
      return "numeric-range";
    case ErrorCode::kPeerLost:
      return "peer-lost";
    case ErrorCode::kDeadlineExceeded:
      return "deadline-exceeded";
    case ErrorCode::kAborted:
      return "aborted";
    case ErrorCode::kDeviceLost:
      return "device-lost";
    case ErrorCode::kDeviceMissing:
      return "device-missing";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

}  // namespace hels
