// Several processes: c10d's store and its Gloo group, which libtorch_cpu has inside. Its headers ask for gloo's, of
// which stand-in/ has as much as they need.
#include "shim.h"

#define USE_DISTRIBUTED
#define USE_C10D_GLOO
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <thread>

using at::Tensor;
using std::chrono::milliseconds;
using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::Backend>;

// An exchange under way holds its tensors until it is over.
struct Exchange {
  c10::intrusive_ptr<c10d::Work> work;
  std::vector<Tensor> kept;
  // Gloo's own part of a sum waits for the whole sum without a limit; the part is taken here.
  Tensor sum;
  int rank = 0;
};

// How long an exchange may last is the caller's to say: c10d's own limit is out of the way.
static const milliseconds NO_LIMIT = std::chrono::hours(24 * 365);

// This unit's own text of an error: that of shim.h is one a file.
RETORT_API const char *retort_dist_error() { return last_error.c_str(); }

// ---- the store -----------------------------------------------------------------------------------

// Opens a store; where `serves`, this process also keeps it, at `port` or, for 0, at one that is free, which is
// answered. A name that other users of the same store do not have goes before every key.
RETORT_API int retort_store_open(const char *host, uint16_t *port, bool serves, const char *prefix, int64_t timeout_ms,
                                 Store **out) {
  RETORT_GUARD({
    c10d::TCPStoreOptions options;
    options.port = *port;
    options.isServer = serves;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    *port = store->getPort();
    *out = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, store));
  })
}

// A second connection to the same store, for another thread.
RETORT_API int retort_store_again(Store *store, Store **out) {
  RETORT_GUARD({ *out = new Store((*store)->clone()); })
}

RETORT_API int retort_store_set(Store *store, const char *key, const uint8_t *bytes, size_t n) {
  RETORT_GUARD({ (*store)->set(key, std::vector<uint8_t>(bytes, bytes + n)); })
}

// Sets what nobody has set; the answer is what stands there now.
RETORT_API int retort_store_set_first(Store *store, const char *key, const uint8_t *bytes, size_t n, Tensor **out) {
  RETORT_GUARD({
    auto found = (*store)->compareSet(key, {}, std::vector<uint8_t>(bytes, bytes + n));
    *out = new Tensor(at::tensor(at::ArrayRef<uint8_t>(found), at::kByte));
  })
}

RETORT_API int retort_store_has(Store *store, const char *key, bool *found) {
  RETORT_GUARD({ *found = (*store)->check({key}); })
}

// The bytes under a key; waits for it as long as the store's limit is.
RETORT_API int retort_store_get(Store *store, const char *key, Tensor **out) {
  RETORT_GUARD({
    auto found = (*store)->get(key);
    *out = new Tensor(at::tensor(at::ArrayRef<uint8_t>(found), at::kByte));
  })
}

RETORT_API int retort_store_add(Store *store, const char *key, int64_t by, int64_t *now) {
  RETORT_GUARD({ *now = (*store)->add(key, by); })
}

RETORT_API void retort_store_close(Store *store) { delete store; }

// ---- the group -----------------------------------------------------------------------------------

// Joins a group over the processors' memory.
RETORT_API int retort_group_gloo(Store *store, int rank, int size, int64_t timeout_ms, Group **out) {
  RETORT_GUARD({
    auto options = c10d::ProcessGroupGloo::Options::create_default(milliseconds(timeout_ms));
    *out = new Group(c10::make_intrusive<c10d::ProcessGroupGloo>(*store, rank, size, options));
  })
}

RETORT_API void retort_group_leave(Group *group) { delete group; }

// What an exchange does; the numbers are those of src/native/group.rs.
enum Kind { REDUCE = 0, GATHER = 1, BROADCAST = 2, REDUCE_SCATTER = 3, BARRIER = 4 };

static void only(bool right, const char *what) { TORCH_CHECK(right, "an exchange of ", what); }

// Begins an exchange. REDUCE sums `in` over all processes in place, BROADCAST gives `in` of `root` to all; GATHER
// puts one `in` of each process behind another into `out`, REDUCE_SCATTER a part of the sum of `in`.
RETORT_API int retort_group_begin(Group *group, int kind, Tensor *in, Tensor *out, int root, Exchange **begun) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    std::vector<Tensor> tensors;
    Tensor result;
    Tensor sum;
    // Gloo compares shapes, where the numbers alone matter here.
    if (in) {
      only(in->is_contiguous(), "a tensor that is not contiguous");
      tensors.push_back(in->view({-1}));
    }
    if (out) {
      only(out->is_contiguous(), "a tensor that is not contiguous");
      result = out->view({-1});
    }
    int size = (*group)->getSize();
    c10::intrusive_ptr<c10d::Work> work;
    switch (kind) {
      case REDUCE: {
        c10d::AllreduceOptions options;
        options.timeout = NO_LIMIT;
        work = (*group)->allreduce(tensors, options);
        break;
      }
      case GATHER: {
        only(in && out && out->numel() == in->numel() * size, "tensors of other sizes than they are gathered into");
        c10d::AllgatherOptions options;
        options.timeout = NO_LIMIT;
        work = (*group)->_allgather_base(result, tensors[0], options);
        break;
      }
      case BROADCAST: {
        c10d::BroadcastOptions options;
        options.rootRank = root;
        options.timeout = NO_LIMIT;
        work = (*group)->broadcast(tensors, options);
        break;
      }
      case REDUCE_SCATTER: {
        only(in && out && out->numel() * size == in->numel(), "tensors of other sizes than they are scattered into");
        if (dynamic_cast<c10d::ProcessGroupGloo *>(group->get())) {
          sum = tensors[0].clone();
          std::vector<Tensor> copy{sum};
          c10d::AllreduceOptions options;
          options.timeout = NO_LIMIT;
          work = (*group)->allreduce(copy, options);
          break;
        }
        c10d::ReduceScatterOptions options;
        options.timeout = NO_LIMIT;
        work = (*group)->_reduce_scatter_base(result, tensors[0], options);
        break;
      }
      default: {
        c10d::BarrierOptions options;
        options.timeout = NO_LIMIT;
        work = (*group)->barrier(options);
      }
    }
    if (out) tensors.push_back(result);
    *begun = new Exchange{work, tensors, sum, (*group)->getRank()};
  })
}

// Waits for an exchange for so long; whether it is over.
RETORT_API int retort_exchange_wait(Exchange *exchange, int64_t milliseconds_, bool *over) {
  RETORT_GUARD({
    *over = true;
    try {
      exchange->work->wait(milliseconds(milliseconds_));
    } catch (...) {
      if (exchange->work->isCompleted()) throw;
      *over = false;
    }
    if (*over && exchange->sum.defined()) {
      at::NoGradGuard no_grad;
      auto &part = exchange->kept.back();
      part.copy_(exchange->sum.narrow(0, exchange->rank * part.numel(), part.numel()));
      exchange->sum.reset();
    }
  })
}

// The same for tensors on a GPU, whose own wait would break the group at the limit.
RETORT_API int retort_exchange_poll(Exchange *exchange, int64_t milliseconds_, bool *over) {
  RETORT_GUARD({
    auto &work = *exchange->work;
    auto last = std::chrono::steady_clock::now() + milliseconds(milliseconds_);
    std::chrono::microseconds pause(20);
    while (!(*over = work.isCompleted()) && std::chrono::steady_clock::now() < last) {
      std::this_thread::sleep_for(pause);
      pause = std::min<std::chrono::microseconds>(2 * pause, milliseconds(1));
    }
    if (*over) {
      if (auto failed = work.exception()) std::rethrow_exception(failed);
      // Over on the device; what is launched from here on is told so.
      work.synchronize();
    }
  })
}

RETORT_API void retort_exchange_free(Exchange *exchange) { delete exchange; }
