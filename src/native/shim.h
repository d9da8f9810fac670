// The C interface of the shim. Every function answers 0, or -1 with retort_error() set for the thread.
// A Tensor* is the at::Tensor* that tch holds; one handed out belongs to the caller.
#pragma once
#include <cstdint>
#include <exception>
#include <string>

#define RETORT_API extern "C" __attribute__((visibility("default")))

// A libtorch message is long: its first line says what, the rest is a stack of C++ frames.
#define RETORT_GUARD(...)                                   \
  try {                                                     \
    __VA_ARGS__;                                            \
    return 0;                                               \
  } catch (const std::exception &e) {                       \
    keep_error(e.what());                                   \
    return -1;                                              \
  } catch (...) {                                           \
    keep_error("an exception of no known type");            \
    return -1;                                              \
  }

static thread_local std::string last_error;
static inline void keep_error(const char *what) {
  last_error = what;
  auto end = last_error.find('\n');
  if (end != std::string::npos) last_error.resize(end);
}
