// NCCL for tensors on GPUs: c10d's group, which libtorch_cuda has inside. A part of the CUDA half. What an exchange
// is, and how one is begun, is the same for every group: dist.cpp does it, in the library that loads this one.
#include "shim.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#define USE_DISTRIBUTED
#define USE_C10D_NCCL
#include <c10/util/env.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

using std::chrono::milliseconds;
using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::Backend>;
using Nccl = c10d::ProcessGroupNCCL;

// How long an exchange may last is the caller's to say: c10d's own limit is out of the way.
static const milliseconds NO_LIMIT = std::chrono::hours(24 * 365);

RETORT_API const char *retort_nccl_error() { return last_error.c_str(); }

// What libtorch was built with has to be what this was built with, or the objects that are handed over have other
// layouts. libtorch itself fills in the options, in a place that has room for longer ones. Needs no GPU.
RETORT_API int retort_nccl_fits(int64_t *of_torch, int64_t *of_shim) {
  RETORT_GUARD({
    alignas(std::max_align_t) static char room[sizeof(Nccl::Options) + 4096];
    static const auto *options = new (room) Nccl::Options(false);
    *of_torch = options->config.version;
    *of_shim = NCCL_VERSION_CODE;
    TORCH_CHECK(options->config.size == sizeof(ncclConfig_t) && *of_torch == *of_shim,
                "libtorch is built with NCCL ", *of_torch, ", and retort for ", *of_shim);
  })
}

// What tells a GPU from all others: NCCL takes no two processes on one.
RETORT_API int retort_nccl_device(int device, uint8_t *out) {
  RETORT_GUARD({
    cudaDeviceProp found;
    C10_CUDA_CHECK(cudaGetDeviceProperties(&found, device));
    std::memcpy(out, found.uuid.bytes, 16);
  })
}

// Waits until the device has done what was launched before: what is begun behind it, begins at once.
RETORT_API int retort_nccl_settle(int device) {
  RETORT_GUARD({ c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).synchronize(); })
}

// ---- work that may never end ---------------------------------------------------------------------

// NCCL waits for other ranks without a limit where it connects to them and where it parts from them. So that nobody
// waits with it, that is done by a thread which is left behind if it takes too long.
struct Apart {
  std::mutex lock;
  std::condition_variable told;
  bool over = false;
  std::string error;
  Group group;
};

template <typename Work>
static std::shared_ptr<Apart> apart(Work work) {
  auto state = std::make_shared<Apart>();
  std::thread([state, work = std::move(work)]() mutable {
    std::string error;
    Group group;
    try {
      group = work();
    } catch (const std::exception &e) {
      error = e.what();
    } catch (...) {
      error = "an exception of no known type";
    }
    std::lock_guard<std::mutex> held(state->lock);
    state->error = error;
    state->group = std::move(group);
    state->over = true;
    state->told.notify_all();
  }).detach();
  return state;
}

// Whether it is over, after at most so long.
static bool over(Apart &state, int64_t most_ms) {
  std::unique_lock<std::mutex> held(state.lock);
  return state.told.wait_for(held, milliseconds(most_ms), [&] { return state.over; });
}

// ---- the group -----------------------------------------------------------------------------------

// c10d would watch the exchanges with threads of its own, which end the whole process where one takes too long. Who
// is to blame is found out by the caller, so those threads are not to be started, and nothing is to be written down
// for them.
static void without_watchdog() {
  c10::utils::set_env("TORCH_NCCL_BLOCKING_WAIT", "1");
  c10::utils::set_env("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0");
  c10::utils::set_env("TORCH_NCCL_ENABLE_MONITORING", "0");
  c10::utils::set_env("TORCH_FR_BUFFER_SIZE", "0");
}

// Begins to join the group of those that meet at this store, each with a GPU of its own.
RETORT_API int retort_nccl_join(Store *store, int rank, int size, int device, std::shared_ptr<Apart> **out) {
  RETORT_GUARD({
    without_watchdog();
    // c10d's keys are short numbers; the other group has such too.
    Store own = c10::make_intrusive<c10d::PrefixStore>("nccl", *store);
    *out = new std::shared_ptr<Apart>(apart([own, rank, size, device]() -> Group {
      at::Device place(at::kCUDA, static_cast<c10::DeviceIndex>(device));
      c10::cuda::CUDAGuard guard(place);
      auto options = Nccl::Options::create();
      options->timeout = NO_LIMIT;
      auto group = c10::make_intrusive<Nccl>(own, rank, size, options);
      group->setBoundDeviceId(place);
      group->eagerConnectSingleDevice(place);
      return group;
    }));
  })
}

// The group, once it is joined; null where that has not come about within so long.
RETORT_API int retort_nccl_joined(std::shared_ptr<Apart> *joining, int64_t most_ms, Group **out) {
  RETORT_GUARD({
    *out = nullptr;
    if (over(**joining, most_ms)) {
      TORCH_CHECK((*joining)->group, (*joining)->error);
      *out = new Group(std::move((*joining)->group));
    }
  })
}

RETORT_API void retort_nccl_forget(std::shared_ptr<Apart> *joining) { delete joining; }

// Leaves a group when what is under way is done or, where it broke, at once. Not waited for longer than so long.
RETORT_API void retort_nccl_leave(Group *group, bool broke, int64_t most_ms) {
  try {
    auto left = apart([own = std::move(*group), broke]() mutable -> Group {
      if (broke) {
        own->abort();
      } else {
        own->shutdown();
      }
      own.reset();
      return Group();
    });
    over(*left, most_ms);
  } catch (...) {
    // No thread to be had: the group stays, which the end of the process takes along.
  }
  delete group;
}
