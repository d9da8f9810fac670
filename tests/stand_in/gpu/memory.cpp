// The devices, their memory, and the kernels that libtorch brings along.
#include "gpu.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace stand_in {

namespace {

struct Block {
  size_t bytes;
  cudaMemoryType type;
  int device;
};

std::map<const char *, Block> &blocks() {
  static auto *all = new std::map<const char *, Block>;
  return *all;
}

size_t number(const char *name, size_t otherwise) {
  const char *text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

size_t total() {
  static const size_t bytes = number("STAND_IN_MEMORY", size_t{80} << 30);
  return bytes;
}

thread_local int current = 0;
std::map<int, size_t> used;

const Block *block_of(const void *at) {
  auto next = blocks().upper_bound(static_cast<const char *>(at));
  if (next == blocks().begin()) return nullptr;
  auto found = std::prev(next);
  return static_cast<const char *>(at) < found->first + found->second.bytes ? &found->second : nullptr;
}

// A device's memory is a range of addresses with nothing behind it: a processor that reads there faults, as with a GPU's.
cudaError_t give(void **out, size_t bytes, cudaMemoryType type) {
  Held held(lock());
  bool on_device = type == cudaMemoryTypeDevice;
  note(on_device ? "malloc" : "malloc-host", std::to_string(bytes));
  if (on_device && used[current] + bytes > total()) return failed(cudaErrorMemoryAllocation);
  size_t size = (bytes + 4095) / 4096 * 4096;
  int access = on_device ? PROT_NONE : PROT_READ | PROT_WRITE;
  void *at = mmap(nullptr, size ? size : 4096, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
  if (on_device) used[current] += bytes;
  blocks()[static_cast<char *>(at)] = {bytes, type, current};
  *out = at;
  return cudaSuccess;
}

cudaError_t take_back(void *at) {
  Held held(lock());
  auto found = blocks().find(static_cast<char *>(at));
  if (at == nullptr) return cudaSuccess;
  if (found == blocks().end()) return failed(cudaErrorInvalidValue);
  Block block = found->second;
  if (block.type == cudaMemoryTypeDevice) used[block.device] -= block.bytes;
  size_t size = (block.bytes + 4095) / 4096 * 4096;
  munmap(at, size ? size : 4096);
  blocks().erase(found);
  note("free", std::to_string(block.bytes));
  return cudaSuccess;
}

// Nothing is written to a device, so what is read from one is zeros.
cudaError_t copy(void *to, const void *from, size_t bytes, cudaStream_t stream, bool waits) {
  Held held(lock());
  const Block *target = block_of(to), *source = block_of(from);
  bool out = source && source->type == cudaMemoryTypeDevice, in = target && target->type == cudaMemoryTypeDevice;
  Capture *capture = stream_of(stream)->capture.get();
  if (capture && ((out && !target) || (in && !source))) return lost(*capture, "a copy of pageable memory");
  const char *what = out && in ? "copy" : out ? "copy-out" : "copy-in";
  if (cudaError_t error = launch(stream, what, std::to_string(bytes), false)) return error;
  if (waits) note("wait", "copy");
  if (capture || (in && out)) return cudaSuccess;
  if (out) std::memset(to, 0, bytes);
  if (!out && !in) std::memmove(to, from, bytes);
  return cudaSuccess;
}

}  // namespace

std::recursive_mutex &lock() {
  static auto *one = new std::recursive_mutex;
  return *one;
}

void note(const char *what, const std::string &which) {
  static const char *path = std::getenv("STAND_IN_JOURNAL");
  if (!path) return;
  Held held(lock());
  static FILE *journal = nullptr;
  static pid_t writer = 0;
  if (writer != getpid()) {
    writer = getpid();
    journal = std::fopen((std::string(path) + "." + std::to_string(writer)).c_str(), "a");
    if (journal) std::setvbuf(journal, nullptr, _IOLBF, 0);
  }
  if (journal) std::fprintf(journal, "%s %s @%d\n", what, which.c_str(), current);
}

int devices() {
  static const int n = static_cast<int>(number("STAND_IN_DEVICES", 1));
  return n;
}

int current_device() { return current; }

std::map<const void *, std::string> &kernels() {
  static auto *all = new std::map<const void *, std::string>;
  return *all;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

// For whoever drives the stand-in: a line of one's own in the journal.
void stand_in_mark(const char *line) { note("mark", line); }

cudaError_t cudaGetDeviceCount(int *count) { return *count = devices(), cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = current, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
  return current = device, cudaSuccess;
}

// An H100's numbers, as far as libtorch asks for them.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
  *p = {};
  p->uuid.bytes[0] = static_cast<char>(device + 1);
  std::strcpy(p->name, "a stand-in that computes nothing");
  p->totalGlobalMem = total();
  p->major = 9, p->minor = 0, p->multiProcessorCount = 132, p->warpSize = 32;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->maxBlocksPerMultiProcessor = 32;
  p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = 227 << 10, p->sharedMemPerMultiprocessor = 228 << 10;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->l2CacheSize = 50 << 20, p->unifiedAddressing = p->managedMemory = p->concurrentKernels = p->cooperativeLaunch = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device) {
  return std::snprintf(id, size, "0000:%02d:00.0", device), cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t *free, size_t *all) {
  Held held(lock());
  return *all = total(), *free = total() - used[current], cudaSuccess;
}
cudaError_t cudaMalloc(void **out, size_t bytes) {
  if (cudaError_t error = forbidden_in_capture("cudaMalloc")) return error;
  return give(out, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaFree(void *at) {
  if (cudaError_t error = forbidden_in_capture("cudaFree")) return error;
  return take_back(at);
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
  if (cudaError_t error = forbidden_in_capture("cudaHostAlloc")) return error;
  return give(out, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFreeHost(void *at) { return take_back(at); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *at) {
  Held held(lock());
  const Block *block = block_of(at);
  *out = {};
  out->type = block ? block->type : cudaMemoryTypeUnregistered;
  out->device = block ? block->device : 0;
  out->devicePointer = out->hostPointer = const_cast<void *>(at);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, bytes, stream, false);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, stream, false);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
  if (cudaError_t error = forbidden_in_capture("cudaMemcpy")) return error;
  return copy(to, from, bytes, nullptr, true);
}
cudaError_t cudaMemsetAsync(void *, int, size_t bytes, cudaStream_t stream) {
  return launch(stream, "fill", std::to_string(bytes), false);
}
cudaError_t cudaMemset(void *at, int value, size_t bytes) {
  if (cudaError_t error = forbidden_in_capture("cudaMemset")) return error;
  return cudaMemsetAsync(at, value, bytes, nullptr);
}

// Kernels, by the address that stands for them in libtorch.
void **__cudaRegisterFatBinary(void *) { return static_cast<void **>(std::calloc(1, sizeof(void *))); }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *,
                            int *) {
  Held held(lock());
  kernels()[host] = name;
}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
cudaError_t cudaGetSymbolAddress(void **out, const void *symbol) {
  static std::map<const void *, void *> given;
  Held held(lock());
  if (auto found = given.find(symbol); found != given.end()) return *out = found->second, cudaSuccess;
  if (cudaError_t error = give(out, 1 << 20, cudaMemoryTypeDevice)) return error;
  return given[symbol] = *out, cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *) {
  *out = {};
  out->maxThreadsPerBlock = 1024, out->numRegs = 32, out->ptxVersion = out->binaryVersion = 90;
  out->maxDynamicSharedSizeBytes = 227 << 10;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *, int, size_t) { return *n = 2, cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *, int, size_t, unsigned) {
  return *n = 2, cudaSuccess;
}
}
