// Streams, events, launches and graphs, with CUDA's rules for what may stand inside a capture.
#include "gpu.h"

#include <map>
#include <thread>

namespace stand_in {

std::map<const void *, std::string> &kernels();

namespace {

thread_local cudaError_t last = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
thread_local Capture *captured_here = nullptr;
Capture *global_capture = nullptr;
unsigned long long captures = 0;

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

struct Graph {
  unsigned long long id;
  std::vector<std::string> nodes;
};

Capture *forbidding() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return nullptr;
  if (captured_here && captured_here->mode != cudaStreamCaptureModeRelaxed) return captured_here;
  return thread_mode == cudaStreamCaptureModeGlobal ? global_capture : nullptr;
}

// A wait of the host for the device.
cudaError_t wait_for(Stream *stream, const char *call) {
  std::lock_guard<std::recursive_mutex> held(lock());
  if (stream && stream->capture) {
    stream->capture->valid = false;
    note("refused", call);
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  if (cudaError_t error = forbidden_in_capture(call)) return error;
  note("wait", call);
  return cudaSuccess;
}

}  // namespace

cudaError_t failed(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

Stream *stream_of(cudaStream_t stream) {
  static Stream legacy{true};
  bool special = stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return special ? &legacy : reinterpret_cast<Stream *>(stream);
}

cudaError_t forbidden_in_capture(const char *call) {
  std::lock_guard<std::recursive_mutex> held(lock());
  Capture *capture = forbidding();
  if (!capture) return cudaSuccess;
  capture->valid = false;
  note("refused", call);
  return failed(cudaErrorStreamCaptureUnsupported);
}

cudaError_t launch(cudaStream_t stream, const char *what, const std::string &which) {
  std::lock_guard<std::recursive_mutex> held(lock());
  Capture *capture = stream_of(stream)->capture;
  if (capture) {
    if (!capture->valid) return failed(cudaErrorStreamCaptureInvalidated);
    capture->nodes.push_back(std::string(what) + " " + which);
    note("recorded", capture->nodes.back());
    return cudaSuccess;
  }
  if (captured_here) {
    // Launched beside the capture: CUDA runs it at once, and no replay does it again.
    note("stray", std::string(what) + " " + which);
    if (stream_of(stream)->waits_for_legacy && captured_here->origin->waits_for_legacy) {
      captured_here->valid = false;
      return failed(cudaErrorStreamCaptureImplicit);
    }
  }
  note(what, which);
  return cudaSuccess;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

cudaError_t cudaGetLastError() {
  cudaError_t error = last;
  return last = cudaSuccess, error;
}
cudaError_t cudaPeekAtLastError() { return last; }
const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorNotSupported: return "the stand-in GPU has no such function";
    default: return "an error of the stand-in GPU";
  }
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
  *out = reinterpret_cast<cudaStream_t>(new Stream{(flags & cudaStreamNonBlocking) == 0});
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream_of(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream_of(stream), "stream"); }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream_of(stream)->capture ? wait_for(stream_of(stream), "query of a stream") : forbidden_in_capture("cudaStreamQuery");
}
cudaError_t cudaDeviceSynchronize() { return wait_for(nullptr, "device"); }
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned) {
  if (cudaError_t error = launch(stream, "callback", "")) return error;
  return call(stream, cudaSuccess, data), cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
  return *out = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<Event *>(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard<std::recursive_mutex> held(lock());
  *reinterpret_cast<Event *>(event) = {stream_of(stream)->capture, stream_of(stream)};
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (reinterpret_cast<Event *>(event)->capture) return failed(cudaErrorCapturedEvent);
  return forbidden_in_capture("cudaEventQuery");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (reinterpret_cast<Event *>(event)->capture) return failed(cudaErrorCapturedEvent);
  return wait_for(nullptr, "event");
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }

// A stream that waits for what a capture recorded becomes a part of it, until the capture's own waits for it again.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard<std::recursive_mutex> held(lock());
  auto *waiting = stream_of(stream);
  auto *for_event = reinterpret_cast<Event *>(event);
  Capture *capture = for_event->capture;
  if (!capture) return waiting->capture ? forbidden_in_capture("a wait for an event from outside") : cudaSuccess;
  if (waiting == capture->origin) {
    capture->forked.erase(for_event->on);
  } else {
    waiting->capture = capture;
    capture->forked.insert(waiting);
  }
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  return std::swap(*mode, thread_mode), cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  std::lock_guard<std::recursive_mutex> held(lock());
  auto *origin = stream_of(stream);
  if (origin == stream_of(nullptr) || origin->capture) return failed(cudaErrorStreamCaptureUnsupported);
  captured_here = origin->capture = new Capture{++captures, mode, origin, true, {}, {}};
  if (mode == cudaStreamCaptureModeGlobal) global_capture = captured_here;
  note("capture", std::to_string(captures));
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  std::lock_guard<std::recursive_mutex> held(lock());
  Capture *capture = stream_of(stream)->capture;
  if (!capture || capture->origin != stream_of(stream)) return failed(cudaErrorIllegalState);
  for (Stream *forked : capture->forked) forked->capture = nullptr;
  stream_of(stream)->capture = captured_here = nullptr;
  if (global_capture == capture) global_capture = nullptr;
  *out = nullptr;
  note("captured", std::to_string(capture->valid ? capture->nodes.size() : 0));
  if (!capture->valid) return failed(cudaErrorStreamCaptureInvalidated);
  if (!capture->forked.empty()) return failed(cudaErrorStreamCaptureUnjoined);
  *out = reinterpret_cast<cudaGraph_t>(new Graph{capture->id, capture->nodes});
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *out) {
  Capture *capture = stream_of(stream)->capture;
  *out = !capture         ? cudaStreamCaptureStatusNone
         : capture->valid ? cudaStreamCaptureStatusActive
                          : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
  cudaStreamIsCapturing(stream, status);
  Capture *capture = stream_of(stream)->capture;
  if (id) *id = capture ? capture->id : 0;
  if (graph) *graph = nullptr;
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *count) {
  return *count = reinterpret_cast<Graph *>(graph)->nodes.size(), cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
  return *out = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph *>(graph))), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete reinterpret_cast<Graph *>(graph), cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete reinterpret_cast<Graph *>(graph), cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return launch(stream, "replay", std::to_string(reinterpret_cast<Graph *>(graph)->id));
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3, dim3, void **, size_t, cudaStream_t stream) {
  std::lock_guard<std::recursive_mutex> held(lock());
  auto found = kernels().find(kernel);
  if (found == kernels().end()) return failed(cudaErrorInvalidDeviceFunction);
  return launch(stream, "kernel", found->second);
}
cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared,
                                        cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **args) {
  return cudaLaunchKernel(kernel, how->gridDim, how->blockDim, args, how->dynamicSmemBytes, how->stream);
}
// A kernel's handle is the address that stands for it.
cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *kernel) {
  return *out = reinterpret_cast<cudaKernel_t>(const_cast<void *>(kernel)), cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  return configurations.push_back({grid, block, shared, stream}), 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t *>(stream) = c.stream;
  return cudaSuccess;
}
}
