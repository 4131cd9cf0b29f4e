// The part of cuBLASLt's C interface that is used here, declared by ourselves: building needs no header of it. Values
// and layouts are those of cuBLASLt 11 to 13.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/cuda/dynamic_library.h"

namespace hels::cuda::cublas {

enum Status : int {
  kSuccess = 0,
  kNotInitialized = 1,
  kAllocFailed = 3,
  kInvalidValue = 7,
  kArchMismatch = 8,
  kMappingError = 11,
  kExecutionFailed = 13,
  kInternalError = 14,
  kNotSupported = 15,
};
enum DataKind : int { kReal32F = 0, kReal16F = 2, kReal16Bf = 14 };
constexpr int kCompute32F = 68;
constexpr int32_t kOperationTransposed = 1;

enum MatmulDescAttribute : int { kTransposeA = 3, kMultiprocessorTarget = 15 };
enum PreferenceAttribute : int {
  kWorkspaceBytesMax = 1,
  kReductionSchemes = 3,
  kAlignmentA = 5,
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};
constexpr uint32_t kReduceInComputeType = 2;
constexpr uint32_t kReduceAnyhow = 7;

struct Handle;
struct MatmulDesc;
struct MatrixLayout;
struct Preference;
struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspaceBytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

/// Every function that is called.
struct Api {
  explicit Api(const DynamicLibrary& library)
      : getVersion(library.function<size_t()>("cublasLtGetVersion")),
        create(library.function<Status(Handle**)>("cublasLtCreate")),
        destroy(library.function<Status(Handle*)>("cublasLtDestroy")),
        descCreate(library.function<Status(MatmulDesc**, int, int)>("cublasLtMatmulDescCreate")),
        descDestroy(library.function<Status(MatmulDesc*)>("cublasLtMatmulDescDestroy")),
        descSet(library.function<Status(MatmulDesc*, int, const void*, size_t)>("cublasLtMatmulDescSetAttribute")),
        layoutCreate(
            library.function<Status(MatrixLayout**, int, uint64_t, uint64_t, int64_t)>("cublasLtMatrixLayoutCreate")),
        layoutDestroy(library.function<Status(MatrixLayout*)>("cublasLtMatrixLayoutDestroy")),
        preferenceCreate(library.function<Status(Preference**)>("cublasLtMatmulPreferenceCreate")),
        preferenceDestroy(library.function<Status(Preference*)>("cublasLtMatmulPreferenceDestroy")),
        preferenceSet(
            library.function<Status(Preference*, int, const void*, size_t)>("cublasLtMatmulPreferenceSetAttribute")),
        heuristic(library.function<HeuristicSignature>("cublasLtMatmulAlgoGetHeuristic")),
        matmul(library.function<MatmulSignature>("cublasLtMatmul")) {}

  using HeuristicSignature = Status(Handle*, MatmulDesc*, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c,
                                    MatrixLayout* d, Preference*, int requested, HeuristicResult* results,
                                    int* returned);
  using MatmulSignature = Status(Handle*, MatmulDesc*, const void* alpha, const void* a, MatrixLayout* aLayout,
                                 const void* b, MatrixLayout* bLayout, const void* beta, const void* c,
                                 MatrixLayout* cLayout, void* d, MatrixLayout* dLayout, const Algorithm*,
                                 void* workspace, size_t workspaceBytes, cudaStream_t);

  size_t (*getVersion)();
  Status (*create)(Handle**);
  Status (*destroy)(Handle*);
  Status (*descCreate)(MatmulDesc**, int computeType, int scaleType);
  Status (*descDestroy)(MatmulDesc*);
  Status (*descSet)(MatmulDesc*, int attribute, const void* value, size_t bytes);
  Status (*layoutCreate)(MatrixLayout**, int type, uint64_t rows, uint64_t columns, int64_t leadingDimension);
  Status (*layoutDestroy)(MatrixLayout*);
  Status (*preferenceCreate)(Preference**);
  Status (*preferenceDestroy)(Preference*);
  Status (*preferenceSet)(Preference*, int attribute, const void* value, size_t bytes);
  HeuristicSignature* heuristic;
  MatmulSignature* matmul;
};

}  // namespace hels::cuda::cublas
