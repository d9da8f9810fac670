// A GPU that computes nothing: what libtorch_cuda.so asks of CUDA, answered on the processor. Memory is given out and
// counted, streams, events and graphs follow CUDA's rules for captures, and every launch is written down; but no kernel
// runs and nothing is copied, so whoever looks at the device's memory finds zeros there. Code for a GPU goes its whole way:
// tensors on the wrong device, waits inside a capture, memory that was not planned are all found; wrong numbers are not.
//
// Environment: STAND_IN_JOURNAL, a file that gets a line for each thing asked (none: nothing is written);
// STAND_IN_DEVICES (1); STAND_IN_MEMORY, bytes a device (80 GiB).
#pragma once
#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace stand_in {

// One lock around everything: what is tested is the order of calls, not their speed.
std::recursive_mutex &lock();

// Writes a line: a word for what was asked, then its name or its size.
void note(const char *what, const std::string &which = {});

struct Capture;

struct Stream {
  bool waits_for_legacy;
  Capture *capture = nullptr;
};

struct Event {
  Capture *capture = nullptr;
  Stream *on = nullptr;
};

// What stands between the beginning of a capture and its end.
struct Capture {
  unsigned long long id;
  cudaStreamCaptureMode mode;
  Stream *origin;
  bool valid = true;
  std::set<Stream *> forked;
  std::vector<std::string> nodes;
};

Stream *stream_of(cudaStream_t stream);

// A launch, copy or product on a stream: into the capture that the stream is in, or away at once.
cudaError_t launch(cudaStream_t stream, const char *what, const std::string &which);

// For a call that CUDA forbids while this thread captures: the error, and the capture is lost.
cudaError_t forbidden_in_capture(const char *call);

// Keeps the error for cudaGetLastError, too.
cudaError_t failed(cudaError_t error);

int devices();

}  // namespace stand_in
