// cuBLAS, cuBLASLt and NCCL as libtorch calls them, and what it asks of the driver: all succeeds, nothing is computed.
#include "gpu.h"

#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using stand_in::launch;

namespace {

struct Blas {
  cudaStream_t stream = nullptr;
  int math = 0, pointers = 0;
};

int code(cudaError_t error) { return error == cudaSuccess ? 0 : 14; }

int unsupported() { return 801; }

// What stands for the driver's context.
int context = 0;

// NCCL's communicator; its size and rank.
struct Comm {
  int size, rank;
};

// Ranks do not meet: their journals tell whether they asked for the same.
int exchange(const char *what, size_t count, int type, int root, cudaStream_t stream) {
  std::string which = std::to_string(count) + " of type " + std::to_string(type) + " with " + std::to_string(root);
  return launch(stream, what, which) == cudaSuccess ? 0 : 1;
}

}  // namespace

extern "C" {

int cublasCreate_v2(Blas **out) { return *out = new Blas, 0; }
int cublasDestroy_v2(Blas *handle) { return delete handle, 0; }
int cublasSetStream_v2(Blas *handle, cudaStream_t stream) { return handle->stream = stream, 0; }
int cublasSetWorkspace_v2(Blas *, void *, size_t) { return 0; }
int cublasGetMathMode(Blas *handle, int *mode) { return *mode = handle->math, 0; }
int cublasSetMathMode(Blas *handle, int mode) { return handle->math = mode, 0; }
int cublasGetPointerMode_v2(Blas *handle, int *mode) { return *mode = handle->pointers, 0; }
int cublasSetPointerMode_v2(Blas *handle, int mode) { return handle->pointers = mode, 0; }

#define PRODUCT(name) \
  int name(Blas *handle, ...) { return code(launch(handle->stream, "product", #name)); }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDdot_v2)
PRODUCT(cublasDotEx)

size_t cublasLtGetVersion() { return 130100; }
int cublasLtMatmulDescCreate(void **out, int, int) { return *out = std::malloc(1), 0; }
int cublasLtMatmulDescDestroy(void *it) { return std::free(it), 0; }
int cublasLtMatmulDescSetAttribute(void *, int, const void *, size_t) { return 0; }
int cublasLtMatrixLayoutCreate(void **out, int, uint64_t, uint64_t, int64_t) { return *out = std::malloc(1), 0; }
int cublasLtMatrixLayoutDestroy(void *it) { return std::free(it), 0; }
int cublasLtMatrixLayoutSetAttribute(void *, int, const void *, size_t) { return 0; }
int cublasLtMatmulPreferenceCreate(void **out) { return *out = std::malloc(1), 0; }
int cublasLtMatmulPreferenceDestroy(void *it) { return std::free(it), 0; }
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t) { return 0; }
// One way to multiply, which needs no workspace: all zeros says so.
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *results, int *found) {
  constexpr size_t one = 8 * sizeof(uint64_t) + sizeof(size_t) + 2 * 4 + 4 * 4;
  return std::memset(results, 0, one), *found = 1, 0;
}
int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *,
                   void *, void *, void *, const void *, void *, size_t, cudaStream_t stream) {
  return code(launch(stream, "product", "cublasLtMatmul"));
}

struct Id {
  char bytes[128];
};
int ncclGetVersion(int *version) { return *version = 22809, 0; }
const char *ncclGetErrorString(int) { return "an error of the stand-in GPU"; }
const char *ncclGetLastError(Comm *) { return ""; }
int ncclGetUniqueId(Id *out) { return std::memset(out, 7, sizeof *out), 0; }
int ncclCommInitRankConfig(Comm **out, int size, Id, int rank, void *) { return *out = new Comm{size, rank}, 0; }
int ncclCommInitRank(Comm **out, int size, Id id, int rank) { return ncclCommInitRankConfig(out, size, id, rank, nullptr); }
int ncclCommCount(Comm *comm, int *out) { return *out = comm->size, 0; }
int ncclCommUserRank(Comm *comm, int *out) { return *out = comm->rank, 0; }
int ncclCommGetAsyncError(Comm *, int *out) { return *out = 0, 0; }
int ncclCommFinalize(Comm *) { return 0; }
int ncclCommDestroy(Comm *comm) { return delete comm, 0; }
int ncclCommAbort(Comm *comm) { return delete comm, 0; }
int ncclCommRegister(Comm *, void *, size_t, void **out) { return *out = nullptr, 0; }
int ncclCommDeregister(Comm *, void *) { return 0; }
int ncclGroupStart() { return 0; }
int ncclGroupEnd() { return 0; }
// Behind the count: the type, then the sum's kind or the rank that gives.
int ncclAllReduce(const void *, void *, size_t n, int type, int sum, Comm *, cudaStream_t s) {
  return exchange("all-reduce", n, type, sum, s);
}
int ncclBroadcast(const void *, void *, size_t n, int type, int root, Comm *, cudaStream_t s) {
  return exchange("broadcast", n, type, root, s);
}
int ncclBcast(void *, size_t n, int type, int root, Comm *, cudaStream_t s) { return exchange("broadcast", n, type, root, s); }
int ncclAllGather(const void *, void *, size_t n, int type, Comm *, cudaStream_t s) {
  return exchange("all-gather", n, type, 0, s);
}
int ncclReduceScatter(const void *, void *, size_t n, int type, int sum, Comm *, cudaStream_t s) {
  return exchange("reduce-scatter", n, type, sum, s);
}

// The driver, where libtorch asks it beside the runtime.
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **out, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found) {
  *out = reinterpret_cast<void *>(&unsupported);
  if (found) *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
int cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }
int cuInit(unsigned) { return 0; }
int cuCtxGetCurrent(void **out) { return *out = &context, 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuDevicePrimaryCtxRetain(void **out, int) { return *out = &context, 0; }
// So old that libtorch computes attention with kernels of its own.
size_t cudnnGetVersion() { return 8000; }
}
