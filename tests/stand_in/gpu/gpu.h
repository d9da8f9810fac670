// A GPU that computes nothing: what libtorch_cuda.so asks of CUDA, answered on the processor. Memory is given out and
// counted, streams, events and graphs follow CUDA's rules for captures, and every launch is written down; but no kernel
// runs and nothing is copied, so whoever looks at the device's memory finds zeros there. Code for a GPU goes its whole path:
// tensors and streams of another device, waits inside a capture, memory that was not planned are found; wrong numbers are not.
//
// Environment: STAND_IN_JOURNAL, a path: each process writes a line for everything asked into PATH.its-number (none: nothing
// is written); STAND_IN_DEVICES (1); STAND_IN_MEMORY, bytes a device (80 GiB).
#pragma once
#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace stand_in {

// One lock around everything: what is tested is the order of calls, not their speed.
using Held = std::lock_guard<std::recursive_mutex>;
std::recursive_mutex &lock();

// Writes a line: a word for what was asked, then its name or its size, and the device it is for.
void note(const char *what, const std::string &which = {});

struct Capture;

struct Stream {
  int device;
  bool waits_for_legacy;
  std::shared_ptr<Capture> capture;
  // What was launched on it so far.
  size_t launched = 0;
};

// What was recorded last: the capture it stands in, and how far its stream was.
struct Event {
  int device;
  std::shared_ptr<Capture> capture;
  Stream *on = nullptr;
  size_t launched = 0;
};

// What stands between the beginning of a capture and its end.
struct Capture {
  unsigned long long id;
  cudaStreamCaptureMode mode;
  Stream *origin;
  std::thread::id thread;
  bool valid = true, over = false;
  // Streams that became a part of it, and those of them that have work which the origin does not wait for.
  std::set<Stream *> members, unjoined;
  std::vector<std::string> nodes;
};

int devices();
int current_device();

Stream *stream_of(cudaStream_t stream);

// A launch, copy or product on a stream: into the capture that the stream is in, or away at once. Kernels and products need a
// stream of the current device.
cudaError_t launch(cudaStream_t stream, const char *what, const std::string &which, bool computes = true);

// For a call that CUDA forbids while this thread captures: the error, and the capture is lost.
cudaError_t forbidden_in_capture(const char *call);

// The capture is lost, with this error.
cudaError_t lost(Capture &capture, const char *call, cudaError_t error = cudaErrorStreamCaptureUnsupported);

// Keeps the error for cudaGetLastError, too.
cudaError_t failed(cudaError_t error);

// The names of libtorch's kernels, by the addresses that stand for them.
std::map<const void *, std::string> &kernels();

}  // namespace stand_in
