// The CUDA half: a library of its own, loaded only where libtorch_cuda.so is.
#include "shim.h"

#include <map>
#include <memory>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace allocator = c10::cuda::CUDACachingAllocator;

RETORT_API const char *retort_cuda_error() { return last_error.c_str(); }

// out: allocated now, allocated at most, reserved now, reserved at most, free on the device, its total.
RETORT_API int retort_cuda_memory(int device, int64_t *out) {
  RETORT_GUARD({
    // Asked before the first tensor is there, the allocator would know of no device.
    at::globalContext().lazyInitDevice(at::kCUDA);
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    auto stats = allocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    size_t free = 0, total = 0;
    C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    out[0] = stats.allocated_bytes[all].current;
    out[1] = stats.allocated_bytes[all].peak;
    out[2] = stats.reserved_bytes[all].current;
    out[3] = stats.reserved_bytes[all].peak;
    out[4] = static_cast<int64_t>(free);
    out[5] = static_cast<int64_t>(total);
  })
}

// The compute capability, as 10 * major + minor.
RETORT_API int retort_cuda_capability(int device, int64_t *out) {
  RETORT_GUARD({
    int major = 0, minor = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    *out = 10 * major + minor;
  })
}

RETORT_API int retort_cuda_reset_peak(int device) {
  RETORT_GUARD({ allocator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); })
}

RETORT_API int retort_cuda_empty_cache() { RETORT_GUARD({ allocator::emptyCache(); }) }

RETORT_API int retort_cuda_synchronize(int device) {
  RETORT_GUARD({
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    c10::cuda::device_synchronize();
  })
}

// A capture runs on a stream of its own; the guard that makes it current lives from begin to end.
// Graphs that live at the same time share one pool of memory: they run one after the other, and hand on what is
// outside of it alone. A pool whose last graph is gone cannot be captured into again.
struct Graph {
  std::shared_ptr<at::cuda::MempoolId_t> pool;
  at::cuda::CUDAGraph graph;
  std::unique_ptr<c10::cuda::CUDAStreamGuard> capturing;
};

RETORT_API int retort_cuda_graph_begin(int device, Graph **out) {
  RETORT_GUARD({
    auto g = std::make_unique<Graph>();
    {
      // Not for longer: what it puts back at its end would take the capture's device away.
      c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
      c10::cuda::device_synchronize();
    }
    // One stream a device for all captures: libraries keep a workspace for each stream that they see.
    static std::map<int, c10::cuda::CUDAStream> streams;
    auto found = streams.find(device);
    if (found == streams.end()) {
      auto fresh = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device));
      found = streams.emplace(device, fresh).first;
    }
    auto stream = found->second;
    g->capturing = std::make_unique<c10::cuda::CUDAStreamGuard>(stream);
    static std::weak_ptr<at::cuda::MempoolId_t> last;
    g->pool = last.lock();
    if (!g->pool) last = g->pool = std::make_shared<at::cuda::MempoolId_t>(at::cuda::graph_pool_handle());
    g->graph.capture_begin(*g->pool, cudaStreamCaptureModeThreadLocal);
    *out = g.release();
  })
}

RETORT_API int retort_cuda_graph_end(Graph *g) {
  RETORT_GUARD({
    // The capture's stream must not stay the current one where its end fails.
    auto capturing = std::move(g->capturing);
    g->graph.capture_end();
  })
}

RETORT_API int retort_cuda_graph_replay(Graph *g) { RETORT_GUARD({ g->graph.replay(); }) }

RETORT_API void retort_cuda_graph_free(Graph *g) { delete g; }
