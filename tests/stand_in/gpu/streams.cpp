// Streams, events, launches and graphs, with CUDA's rules for what may stand inside a capture.
#include "gpu.h"

namespace stand_in {

namespace {

thread_local cudaError_t last = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
thread_local std::shared_ptr<Capture> captured_here;
std::set<Capture *> under_way;
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

// The capture that forbids this thread what is unsafe in one.
Capture *forbidding() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return nullptr;
  if (captured_here && captured_here->mode != cudaStreamCaptureModeRelaxed) return captured_here.get();
  if (thread_mode != cudaStreamCaptureModeGlobal) return nullptr;
  for (Capture *capture : under_way)
    if (capture->mode == cudaStreamCaptureModeGlobal) return capture;
  return nullptr;
}

// A wait of the host for a stream, or for the current device (no stream), which no thread may do while one of its streams
// captures.
cudaError_t wait_for(Stream *stream, const char *call) {
  Held held(lock());
  if (stream && stream->capture) return lost(*stream->capture, call);
  if (!stream)
    for (Capture *capture : under_way)
      if (capture->origin->device == current_device()) return lost(*capture, call);
  if (cudaError_t error = forbidden_in_capture(call)) return error;
  note("wait", call);
  return cudaSuccess;
}

std::string sizes(dim3 d) {
  return " " + std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
}

bool fits(dim3 grid, dim3 block, size_t shared) {
  auto threads = size_t{block.x} * block.y * block.z;
  return grid.x && grid.y && grid.z && grid.y < 65536 && grid.z < 65536 && threads && threads <= 1024 && shared <= 227 << 10;
}

}  // namespace

cudaError_t failed(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

cudaError_t lost(Capture &capture, const char *call, cudaError_t error) {
  capture.valid = false;
  note("refused", call);
  return failed(error);
}

Stream *stream_of(cudaStream_t stream) {
  static std::map<int, Stream> legacy;
  if (stream != nullptr && stream != cudaStreamLegacy && stream != cudaStreamPerThread) return reinterpret_cast<Stream *>(stream);
  Held held(lock());
  return &legacy.try_emplace(current_device(), Stream{current_device(), true, nullptr}).first->second;
}

cudaError_t forbidden_in_capture(const char *call) {
  Held held(lock());
  Capture *capture = forbidding();
  return capture ? lost(*capture, call) : cudaSuccess;
}

cudaError_t launch(cudaStream_t on, const char *what, const std::string &which, bool computes) {
  Held held(lock());
  Stream *stream = stream_of(on);
  if (computes && stream->device != current_device()) {
    note("misplaced", std::string(what) + " " + which);
    return failed(cudaErrorInvalidResourceHandle);
  }
  stream->launched++;
  if (Capture *capture = stream->capture.get()) {
    if (!capture->valid) return failed(cudaErrorStreamCaptureInvalidated);
    if (stream != capture->origin) capture->unjoined.insert(stream);
    capture->nodes.push_back(std::string(what) + " " + which);
    note("recorded", capture->nodes.back());
    return cudaSuccess;
  }
  for (Capture *capture : under_way) {
    // A stream that waits for all others, beside one that does.
    if (on == nullptr && capture->origin->waits_for_legacy && capture->origin->device == stream->device)
      return lost(*capture, "a launch on the legacy stream", cudaErrorStreamCaptureImplicit);
    // Launched beside the capture by who captures: CUDA runs it at once, and no replay does it again.
    if (capture == captured_here.get()) note("stray", std::string(what) + " " + which);
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
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorNotSupported: return "the stand-in GPU has no such function";
    default: return "an error of the stand-in GPU";
  }
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
  *out = reinterpret_cast<cudaStream_t>(new Stream{current_device(), (flags & cudaStreamNonBlocking) == 0, nullptr});
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream_of(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream_of(stream), "stream"); }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Held held(lock());
  if (auto capture = stream_of(stream)->capture) return lost(*capture, "a query of a stream");
  return forbidden_in_capture("a query of a stream");
}
cudaError_t cudaDeviceSynchronize() { return wait_for(nullptr, "device"); }
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned) {
  {
    Held held(lock());
    if (auto capture = stream_of(stream)->capture) return lost(*capture, "a callback");
    if (cudaError_t error = launch(stream, "callback", "", false)) return error;
  }
  return call(stream, cudaSuccess, data), cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
  return *out = reinterpret_cast<cudaEvent_t>(new Event{current_device(), nullptr}), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<Event *>(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t on) {
  Held held(lock());
  Stream *stream = stream_of(on);
  auto *recorded = reinterpret_cast<Event *>(event);
  if (recorded->device != stream->device) {
    note("misplaced", "an event");
    return failed(cudaErrorInvalidResourceHandle);
  }
  recorded->capture = stream->capture, recorded->on = stream, recorded->launched = stream->launched;
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Held held(lock());
  if (auto capture = reinterpret_cast<Event *>(event)->capture) return lost(*capture, "a captured event", cudaErrorCapturedEvent);
  return forbidden_in_capture("a query of an event");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Held held(lock());
  if (auto capture = reinterpret_cast<Event *>(event)->capture) return lost(*capture, "a captured event", cudaErrorCapturedEvent);
  if (cudaError_t error = forbidden_in_capture("event")) return error;
  return note("wait", "event"), cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }

// A stream that waits for what a capture recorded becomes a part of it, until a part of it waits for its last work.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Held held(lock());
  auto *waiting = stream_of(stream);
  auto *awaited = reinterpret_cast<Event *>(event);
  auto capture = awaited->capture;
  if (!capture) {
    bool isolated = waiting->capture != nullptr;
    return isolated ? lost(*waiting->capture, "a wait for an event from outside", cudaErrorStreamCaptureIsolation) : cudaSuccess;
  }
  if (capture->over) return failed(cudaErrorCapturedEvent);
  if (waiting->capture && waiting->capture != capture) {
    waiting->capture->valid = false;
    return lost(*capture, "two captures that become one", cudaErrorStreamCaptureMerge);
  }
  if (waiting != awaited->on && awaited->on->launched == awaited->launched) capture->unjoined.erase(awaited->on);
  if (waiting == capture->origin) return cudaSuccess;
  waiting->capture = capture;
  capture->members.insert(waiting);
  capture->unjoined.insert(waiting);
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  return std::swap(*mode, thread_mode), cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Held held(lock());
  auto *origin = stream_of(stream);
  if (origin == stream_of(nullptr)) return failed(cudaErrorStreamCaptureUnsupported);
  if (origin->capture) return failed(cudaErrorIllegalState);
  captured_here = origin->capture = std::make_shared<Capture>();
  auto &capture = *captured_here;
  capture.id = ++captures, capture.mode = mode, capture.origin = origin, capture.thread = std::this_thread::get_id();
  under_way.insert(&capture);
  note("capture", std::to_string(capture.id));
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  Held held(lock());
  auto capture = stream_of(stream)->capture;
  *out = nullptr;
  if (!capture) return failed(cudaErrorIllegalState);
  if (capture->origin != stream_of(stream)) return failed(cudaErrorStreamCaptureUnmatched);
  bool elsewhere = capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id();
  if (elsewhere) return lost(*capture, "an end on another thread", cudaErrorStreamCaptureWrongThread);
  for (Stream *member : capture->members) member->capture = nullptr;
  capture->origin->capture = captured_here = nullptr;
  capture->over = true;
  under_way.erase(capture.get());
  bool whole = capture->valid && capture->unjoined.empty();
  note(whole ? "captured" : "given-up", std::to_string(capture->nodes.size()));
  if (!capture->valid) return failed(cudaErrorStreamCaptureInvalidated);
  if (!whole) return failed(cudaErrorStreamCaptureUnjoined);
  *out = reinterpret_cast<cudaGraph_t>(new Graph{capture->id, capture->nodes});
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *out) {
  Held held(lock());
  auto capture = stream_of(stream)->capture;
  auto of_one = capture && capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
  *out = capture ? of_one : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
  Held held(lock());
  cudaStreamIsCapturing(stream, status);
  auto capture = stream_of(stream)->capture;
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

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t shared, cudaStream_t stream) {
  Held held(lock());
  auto found = kernels().find(kernel);
  if (found == kernels().end()) return failed(cudaErrorInvalidDeviceFunction);
  if (!fits(grid, block, shared)) return failed(cudaErrorInvalidConfiguration);
  return launch(stream, "kernel", found->second + sizes(grid) + sizes(block) + " " + std::to_string(shared));
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
