// A stand-in for a header that a libtorch fetched without CUDA's libraries lacks: ATen's headers name this type.
#pragma once

enum cusolverStatus_t : int {};
