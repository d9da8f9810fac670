// A stand-in for gloo's header, which the wheel of torch lacks: c10d's class holds pointers to these alone.
#pragma once

namespace gloo::transport {
class Device {};
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};
}  // namespace gloo::transport
