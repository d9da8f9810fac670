// A stand-in for a header that a libtorch fetched without CUDA's libraries lacks: ATen's headers name these types.
#pragma once

using cublasHandle_t = struct cublasContext *;
enum cublasStatus_t : int {};
