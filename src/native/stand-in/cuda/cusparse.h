// A stand-in for a header that a libtorch fetched without CUDA's libraries lacks: ATen's headers name these types.
#pragma once

using cusparseHandle_t = struct cusparseContext *;
enum cusparseStatus_t : int {};
