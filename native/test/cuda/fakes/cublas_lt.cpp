// cuBLASLt as far as cublas_lt.h uses it, on the host: column-major products in double precision. Its algorithms: the
// first is refused by the heuristic, the second runs, the third fails when it runs, the fourth runs.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <map>

#include "base/data_type.h"

#define HELS_FAKE extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidValue = 7;
constexpr int kNotSupported = 15;

struct Desc {
  std::map<int, int32_t> attributes;
};
struct Layout {
  int type;
  int64_t rows, columns, leading;
};
struct Preference {
  std::map<int, uint64_t> attributes;
};
struct Algorithm {
  uint64_t data[8];
};
struct Result {
  Algorithm algorithm;
  size_t workspaceBytes;
  int state;
  float waves;
  int reserved[4];
};

int objects = 0;  // not yet destroyed

hels::DataType typeOf(const Layout& layout) {
  return layout.type == 0 ? hels::DataType::kF32 : layout.type == 14 ? hels::DataType::kBf16 : hels::DataType::kF16;
}

double read(const void* matrix, const Layout& layout, int64_t row, int64_t column) {
  const int64_t index = column * layout.leading + row;
  if (layout.type == 0) return static_cast<const float*>(matrix)[index];
  const uint16_t bits = static_cast<const uint16_t*>(matrix)[index];
  return layout.type == 14 ? hels::bf16ToF32(bits) : hels::f16ToF32(bits);
}

void write(void* matrix, const Layout& layout, int64_t row, int64_t column, double value) {
  const int64_t index = column * layout.leading + row;
  const auto narrow = static_cast<float>(value);
  if (layout.type == 0) {
    static_cast<float*>(matrix)[index] = narrow;
  } else {
    static_cast<uint16_t*>(matrix)[index] =
        typeOf(layout) == hels::DataType::kBf16 ? hels::f32ToBf16(narrow) : hels::f32ToF16(narrow);
  }
}

template <typename Object>
int create(Object** object, Object value) {
  *object = new Object(std::move(value));
  ++objects;
  return kSuccess;
}

template <typename Object>
int destroy(Object* object) {
  delete object;
  --objects;
  return kSuccess;
}

}  // namespace

HELS_FAKE int helsFakeObjects() { return objects; }

HELS_FAKE size_t cublasLtGetVersion() { return 130203; }
HELS_FAKE int cublasLtCreate(int** handle) { return create(handle, 0); }
HELS_FAKE int cublasLtDestroy(int* handle) { return destroy(handle); }

HELS_FAKE int cublasLtMatmulDescCreate(Desc** desc, int computeType, int scaleType) {
  return computeType == 68 && scaleType == 0 ? create(desc, Desc{}) : kInvalidValue;
}
HELS_FAKE int cublasLtMatmulDescDestroy(Desc* desc) { return destroy(desc); }
HELS_FAKE int cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t bytes) {
  if (bytes != sizeof(int32_t)) return kInvalidValue;
  std::memcpy(&desc->attributes[attribute], value, bytes);
  return kSuccess;
}

HELS_FAKE int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  const auto signedRows = static_cast<int64_t>(rows);
  if (rows == 0 || columns == 0 || leading < signedRows) return kInvalidValue;
  return create(layout, Layout{type, signedRows, static_cast<int64_t>(columns), leading});
}
HELS_FAKE int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroy(layout); }

HELS_FAKE int cublasLtMatmulPreferenceCreate(Preference** preference) { return create(preference, Preference{}); }
HELS_FAKE int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroy(preference); }
HELS_FAKE int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value,
                                                   size_t bytes) {
  if (bytes != (attribute == 1 ? sizeof(uint64_t) : sizeof(uint32_t))) return kInvalidValue;
  uint64_t wide = 0;
  std::memcpy(&wide, value, bytes);
  preference->attributes[attribute] = wide;
  return kSuccess;
}

HELS_FAKE int cublasLtMatmulAlgoGetHeuristic(int*, Desc*, Layout*, Layout*, Layout*, Layout* d, Preference* preference,
                                             int requested, Result* results, int* count) {
  // Sums that are stored in 16 bits must not be split in that type.
  if (d->type != 0 && preference->attributes[3] != 2) return kInvalidValue;
  for (*count = 0; *count < requested && *count < 4; ++*count) {
    results[*count] = {};
    results[*count].algorithm.data[0] = static_cast<uint64_t>(*count);
    results[*count].state = *count == 0 ? kNotSupported : kSuccess;
    results[*count].workspaceBytes = preference->attributes[1];
  }
  return kSuccess;
}

HELS_FAKE int cublasLtMatmul(int*, Desc* desc, const float* alpha, const void* a, Layout* aLayout, const void* b,
                             Layout* bLayout, const float* beta, const void* c, Layout* cLayout, void* d,
                             Layout* dLayout, const Algorithm* algorithm, void* workspace, size_t workspaceBytes,
                             cudaStream_t) {
  if (algorithm->data[0] == 2) return kNotSupported;
  if (workspaceBytes > 0) std::memset(workspace, 0x5A, workspaceBytes);
  const bool transposed = desc->attributes[3] == 1;
  const int64_t depth = transposed ? aLayout->rows : aLayout->columns;
  const int64_t rows = transposed ? aLayout->columns : aLayout->rows;
  if (bLayout->rows != depth || dLayout->rows != rows || dLayout->columns != bLayout->columns) return kInvalidValue;
  for (int64_t column = 0; column < dLayout->columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += (transposed ? read(a, *aLayout, k, row) : read(a, *aLayout, row, k)) * read(b, *bLayout, k, column);
      }
      const double before = *beta == 0.0F ? 0.0 : static_cast<double>(*beta) * read(c, *cLayout, row, column);
      write(d, *dLayout, row, column, static_cast<double>(*alpha) * sum + before);
    }
  }
  return kSuccess;
}
