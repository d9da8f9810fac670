// The CUDA half: a library of its own, loaded only where libtorch_cuda.so is.
#include "shim.h"

#include <map>
#include <memory>
#include <mutex>

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
  RETORT_GUARD({
    at::globalContext().lazyInitDevice(at::kCUDA);
    allocator::resetPeakStats(static_cast<c10::DeviceIndex>(device));
  })
}

RETORT_API int retort_cuda_empty_cache() { RETORT_GUARD({ allocator::emptyCache(); }) }

RETORT_API int retort_cuda_synchronize(int device) {
  RETORT_GUARD({
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    c10::cuda::device_synchronize();
  })
}

// A capture runs on a stream of its own; the guard that makes it current lives from begin to end.
// Graphs of a device that live at the same time share one pool of memory: they run one after the other, and hand on what is
// outside of it alone. A pool whose last graph is gone cannot be captured into again.
struct Graph {
  std::shared_ptr<at::cuda::MempoolId_t> pool;
  at::cuda::CUDAGraph graph;
  std::unique_ptr<c10::cuda::CUDAStreamGuard> capturing;
};

// What the captures of a device share. One stream for all of them: libraries keep a workspace for each stream that they see.
struct Captures {
  c10::cuda::CUDAStream stream;
  std::weak_ptr<at::cuda::MempoolId_t> pool;
};

static Captures &captures_of(int device) {
  static std::mutex lock;
  static std::map<int, Captures> all;
  std::lock_guard<std::mutex> held(lock);
  auto found = all.find(device);
  if (found == all.end()) {
    auto fresh = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device));
    found = all.emplace(device, Captures{fresh, {}}).first;
  }
  return found->second;
}

// Of a capture that failed libtorch's allocator and generators believe that it still goes on: capture_end leaves them so. An
// empty capture in its place ends as it should, and tells them.
static void end_failed(Graph &g) {
  struct Silent : c10::WarningHandler {
    void process(const c10::Warning &) override {}
  } silent;
  c10::WarningUtils::WarningHandlerGuard quiet(&silent);
  cudaGetLastError();
  C10_CUDA_CHECK(cudaStreamBeginCapture(g.capturing->current_stream(), cudaStreamCaptureModeThreadLocal));
  g.graph.capture_end();
}

static void begin(int device, Graph **out) {
  auto g = std::make_unique<Graph>();
  {
    // Not for longer: what it puts back at its end would take the capture's device away.
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    c10::cuda::device_synchronize();
  }
  auto &captures = captures_of(device);
  g->capturing = std::make_unique<c10::cuda::CUDAStreamGuard>(captures.stream);
  g->pool = captures.pool.lock();
  if (!g->pool) captures.pool = g->pool = std::make_shared<at::cuda::MempoolId_t>(at::cuda::graph_pool_handle());
  g->graph.capture_begin(*g->pool, cudaStreamCaptureModeThreadLocal);
  *out = g.release();
}

static void end(Graph &g) {
  try {
    g.graph.capture_end();
  } catch (...) {
    end_failed(g);
    g.capturing.reset();
    throw;
  }
  g.capturing.reset();
}

RETORT_API int retort_cuda_graph_begin(int device, Graph **out) { RETORT_GUARD({ begin(device, out); }) }

RETORT_API int retort_cuda_graph_end(Graph *g) { RETORT_GUARD({ end(*g); }) }

RETORT_API int retort_cuda_graph_replay(Graph *g) { RETORT_GUARD({ g->graph.replay(); }) }

RETORT_API void retort_cuda_graph_free(Graph *g) { delete g; }
