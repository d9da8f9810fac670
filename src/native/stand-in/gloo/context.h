// A stand-in for gloo's header, which the wheel of torch lacks: c10d's class holds pointers to contexts alone, so
// that their inside does not matter. What is declared here is defined in libtorch_cpu.
#pragma once
#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
