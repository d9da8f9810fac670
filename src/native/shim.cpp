// What tch lacks, for the CPU and for whatever device the tensors are on.
#include "shim.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/version.h>

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

static std::vector<Tensor> list(Tensor **tensors, size_t n) {
  std::vector<Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; i++) out.push_back(tensors[i] ? *tensors[i] : Tensor());
  return out;
}

RETORT_API const char *retort_error() { return last_error.c_str(); }

// ---- tensors over memory that somebody else owns -------------------------------------------------

RETORT_API int retort_from_memory(void *data, const int64_t *shape, size_t dims, int dtype, void *owner,
                                  void (*release)(void *), Tensor **out) {
  RETORT_GUARD({
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype));
    auto t = at::from_blob(
        data, at::IntArrayRef(shape, dims), [owner, release](void *) { release(owner); }, options);
    *out = new Tensor(std::move(t));
  })
}

// ---- many tensors at once ------------------------------------------------------------------------

RETORT_API int retort_adamw(Tensor **params, Tensor **grads, Tensor **m, Tensor **v, Tensor **steps, size_t n,
                            double lr, double beta1, double beta2, double weight_decay, double eps) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    auto p = list(params, n);
    auto g = list(grads, n);
    auto first = list(m, n);
    auto second = list(v, n);
    auto s = list(steps, n);
    // The fused kernel walks memory and checks nothing.
    for (size_t i = 0; i < n; i++) {
      g[i] = g[i].contiguous();
      for (const auto &t : {g[i], first[i], second[i]}) {
        TORCH_CHECK(t.sizes() == p[i].sizes(), "AdamW: tensor ", i, " has shape ", t.sizes(), ", its parameter ", p[i].sizes());
        TORCH_CHECK(t.scalar_type() == p[i].scalar_type(), "AdamW: tensor ", i, " is of another type than its parameter");
        TORCH_CHECK(t.is_contiguous() && p[i].is_contiguous(), "AdamW: tensor ", i, " is not contiguous");
      }
    }
    at::_foreach_add_(s, 1);
    at::_fused_adamw_(p, g, first, second, {}, s, lr, beta1, beta2, weight_decay, eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  })
}

static Tensor global_norm(const std::vector<Tensor> &tensors) {
  auto norms = at::_foreach_norm(tensors, 2, at::kFloat);
  return at::stack(norms).norm();
}

RETORT_API int retort_global_norm(Tensor **tensors, size_t n, Tensor **out) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    *out = new Tensor(global_norm(list(tensors, n)));
  })
}

// The norm before clipping is handed out as a tensor: nothing waits for the device here.
RETORT_API int retort_clip(Tensor **tensors, size_t n, double most, Tensor **out) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    auto all = list(tensors, n);
    auto norm = global_norm(all);
    auto factor = (most / (norm + 1e-6)).clamp_max(1.0);
    at::_foreach_mul_(all, factor);
    *out = new Tensor(norm);
  })
}

RETORT_API int retort_add_all(Tensor **into, Tensor **from, size_t n, double factor) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    auto target = list(into, n);
    at::_foreach_add_(target, list(from, n), factor);
  })
}

RETORT_API int retort_copy_all(Tensor **into, Tensor **from, size_t n) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    auto target = list(into, n);
    at::_foreach_copy_(target, list(from, n));
  })
}

RETORT_API int retort_zero_all(Tensor **tensors, size_t n) {
  RETORT_GUARD({
    at::NoGradGuard no_grad;
    auto all = list(tensors, n);
    at::_foreach_zero_(all);
  })
}

RETORT_API int retort_drop_grads(Tensor **tensors, size_t n) {
  RETORT_GUARD({
    for (size_t i = 0; i < n; i++) tensors[i]->mutable_grad().reset();
  })
}

// ---- backward ------------------------------------------------------------------------------------

RETORT_API int retort_backward(Tensor **outputs, Tensor **grads, size_t n, bool keep_graph) {
  RETORT_GUARD({ torch::autograd::backward(list(outputs, n), list(grads, n), keep_graph); })
}

// Tells of a gradient that has been added up.
struct Arrival : public torch::autograd::PostAccumulateGradHook {
  void *context;
  size_t place;
  void (*tell)(void *, size_t);
  Arrival(void *c, size_t p, void (*t)(void *, size_t)) : context(c), place(p), tell(t) {}
  void operator()(const Tensor &) override { tell(context, place); }
};

RETORT_API int retort_tell_arrivals(Tensor **params, size_t n, void *context, void (*tell)(void *, size_t)) {
  RETORT_GUARD({
    for (size_t i = 0; i < n; i++)
      torch::autograd::impl::set_post_acc_grad_hooks(*params[i], std::make_unique<Arrival>(context, i, tell));
  })
}

RETORT_API int retort_forget_arrivals(Tensor **params, size_t n) {
  RETORT_GUARD({
    for (size_t i = 0; i < n; i++) torch::autograd::impl::set_post_acc_grad_hooks(*params[i], nullptr);
  })
}

// A block whose inside is forgotten after the forward pass and computed again in the backward pass.
struct Closure {
  void *context;
  Tensor *(*run)(void *, Tensor *);
  void (*release)(void *);
  Closure(void *c, Tensor *(*r)(void *, Tensor *), void (*d)(void *)) : context(c), run(r), release(d) {}
  Closure(const Closure &) = delete;
  ~Closure() { release(context); }
  Tensor operator()(Tensor &x) const {
    std::unique_ptr<Tensor> y(run(context, &x));
    TORCH_CHECK(y, "a recomputed block failed: ", last_error);
    return *y;
  }
};

struct Recompute : public Node {
  SavedVariable input;
  std::shared_ptr<Closure> closure;

  variable_list apply(variable_list &&grads) override {
    if (!grads[0].defined()) return {Tensor()};
    TORCH_CHECK(closure, "a recomputed block was asked for its gradient twice");
    at::AutoGradMode on(true);
    bool wanted = task_should_compute_output(0);
    auto x = input.unpack(shared_from_this()).detach().requires_grad_(wanted);
    auto y = (*closure)(x);
    if (y.requires_grad()) torch::autograd::backward({y}, {grads[0]});
    return {wanted ? x.grad() : Tensor()};
  }
  void release_variables() override {
    input.reset_data();
    closure.reset();
  }
  std::string name() const override { return "RetortRecompute"; }
};

RETORT_API int retort_recompute(Tensor *x, void *context, Tensor *(*run)(void *, Tensor *),
                                void (*release)(void *), Tensor **out) {
  RETORT_GUARD({
    auto closure = std::make_shared<Closure>(context, run, release);
    Tensor y;
    {
      at::NoGradGuard no_grad;
      y = (*closure)(*x).detach();
    }
    if (at::GradMode::is_enabled()) {
      std::shared_ptr<Recompute> node(new Recompute(), torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(*x));
      node->input = SavedVariable(*x, /*is_output=*/false);
      node->closure = closure;
      torch::autograd::set_history(y, node);
    }
    *out = new Tensor(std::move(y));
  })
}

// A product in float32 of narrower numbers, which keeps these and not what they were widened to.
struct WideLinear : torch::autograd::Function<WideLinear> {
  static Tensor forward(torch::autograd::AutogradContext *kept, Tensor x, Tensor w, std::optional<Tensor> bias) {
    kept->save_for_backward({x, w});
    kept->saved_data["bias"] = bias.has_value();
    std::optional<Tensor> wide_bias;
    if (bias) wide_bias = bias->to(at::kFloat);
    return at::linear(x.to(at::kFloat), w.to(at::kFloat), wide_bias).to(x.scalar_type());
  }
  static variable_list backward(torch::autograd::AutogradContext *kept, variable_list grads) {
    auto saved = kept->get_saved_variables();
    auto &x = saved[0], &w = saved[1];
    auto slope = grads[0].to(at::kFloat).reshape({-1, w.size(0)});
    Tensor to_x, to_w, to_bias;
    if (kept->needs_input_grad(0)) to_x = slope.mm(w.to(at::kFloat)).to(x.scalar_type()).view(x.sizes());
    if (kept->needs_input_grad(1))
      to_w = slope.t().mm(x.reshape({-1, w.size(1)}).to(at::kFloat)).to(w.scalar_type());
    if (kept->saved_data["bias"].toBool() && kept->needs_input_grad(2)) to_bias = slope.sum(0).to(w.scalar_type());
    return {to_x, to_w, to_bias};
  }
};

RETORT_API int retort_wide_linear(Tensor *x, Tensor *w, Tensor *bias, Tensor **out) {
  RETORT_GUARD({
    std::optional<Tensor> b;
    if (bias) b = *bias;
    *out = new Tensor(WideLinear::apply(*x, *w, b));
  })
}

// The Rust side of a closure reports its error here.
RETORT_API void retort_keep_error(const char *text) { keep_error(text); }

// ---- counting ------------------------------------------------------------------------------------

static thread_local uint64_t counted = 0;

static std::unique_ptr<at::ObserverContext> count_one(const at::RecordFunction &) {
  counted++;
  return nullptr;
}

// Counts the operations of this thread from here on.
RETORT_API int retort_count_start(uint64_t *handle) {
  RETORT_GUARD({
    auto callback = at::RecordFunctionCallback(count_one).scopes({at::RecordScope::FUNCTION});
    counted = 0;
    *handle = at::addThreadLocalCallback(callback);
  })
}

RETORT_API int retort_count_stop(uint64_t handle, uint64_t *n) {
  RETORT_GUARD({
    at::removeCallback(handle);
    *n = counted;
  })
}

// ---- switches ------------------------------------------------------------------------------------

RETORT_API int retort_set_deterministic(bool on) {
  RETORT_GUARD({
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(on);
    at::globalContext().setBenchmarkCuDNN(false);
    // Filling new memory with NaN is a debugging aid that costs a pass over every buffer.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  })
}

RETORT_API int retort_set_tf32(bool on) {
  RETORT_GUARD({
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  })
}

RETORT_API int retort_torch_version(char *text, size_t room) {
  RETORT_GUARD({
    std::string version = TORCH_VERSION;
    version.resize(std::min(version.size(), room - 1));
    std::copy(version.begin(), version.end(), text);
    text[version.size()] = 0;
  })
}

// An address inside libtorch_cpu, to find the folder it was loaded from.
RETORT_API const void *retort_torch_address() { return reinterpret_cast<const void *>(&at::globalContext); }
