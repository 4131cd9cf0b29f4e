// For a build without oneDNN: only numerics `fast` on the processor asks for it.
#include "base/error.h"
#include "kernels/cpu/gemm.h"

namespace hels {

std::unique_ptr<Gemm> makeOneDnnGemm(int) {
  throw Error(ErrorCode::kShapeInvalid,
              "numerics is fast; this build has no oneDNN, it must be exact on the processor");
}

}  // namespace hels
