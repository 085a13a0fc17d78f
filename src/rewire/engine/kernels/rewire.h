// The C interface of the kernels. Every function is plain C, so that one library serves every Python and every torch.
//
// Activations are blocked: contiguous float32 (blocks, channels, height, width, 16), image n in block n / 16, lane n % 16.
// Sizes are int64. A `layer` is int64[11]: out, in, kernel_h, kernel_w, stride, pad_h, pad_w, height, width, blocks, count:
// height, width and blocks of the input, count of active weights. Nothing here throws or keeps state between calls.
#pragma once

#include <cstdint>

#define REWIRE_EXPORT extern "C" __attribute__((visibility("default")))

// ---- parallel.cpp, isa.cpp

// Numbers what this header says, streams included; to be raised, with INTERFACE in library.py, when any of it changes, so
// that a library that was compiled for another is refused and not called.
#define REWIRE_INTERFACE 2
REWIRE_EXPORT int rw_interface();

// Hands over the OpenMP runtime that torch has loaded (GOMP_parallel and omp_get_thread_num), or null for one thread.
REWIRE_EXPORT void rw_set_openmp(void* gomp_parallel, void* omp_get_thread_num);

// How many threads really work where `threads` are asked for.
REWIRE_EXPORT int rw_count_threads(int threads);

// The instruction set that this library was compiled for: 2 AVX-512, 1 AVX2 with FMA, 0 the baseline.
REWIRE_EXPORT int rw_compiled_isa();

// The best instruction set, numbered as above, that this processor has and its operating system lets us use.
REWIRE_EXPORT int rw_supported_isa();

// ---- stream.cpp: a layer's topology as the kernels read it

// Writes the number of {forward entries, forward pointers, backward entries, backward pointers} into sizes[4].
REWIRE_EXPORT void rw_stream_sizes(const int64_t* layer, const int32_t* index, int64_t* sizes);

// Fills the arrays of those sizes. `index`: flat positions of the active weights in the dense (out, in, kernel_h,
// kernel_w) weight, ascending.
REWIRE_EXPORT void rw_stream_build(const int64_t* layer, const int32_t* index, int32_t* forward_pointers,
                                   uint16_t* forward_offsets, int32_t* forward_order, int32_t* backward_pointers,
                                   uint16_t* backward_offsets, int32_t* backward_order);

// ---- convolution.cpp: the three products of a sparse layer; `values` are in the order of `index`
//
// A layer may have a ReLU behind it. Then y is its result, and to the gradients y is given too, beside dy, the gradient of
// the ReLU's result; without one it is null there.

// y = convolution of x by the active weights, plus bias (may be null), through a ReLU if relu is not 0.
REWIRE_EXPORT void rw_forward(const int64_t* layer, const float* x, const float* values, const float* bias,
                              const int32_t* pointers, const uint16_t* offsets, const int32_t* order, int relu,
                              float* y, int threads);

// dx = gradient of the input, from the gradient of the output. Every element of dx is written.
REWIRE_EXPORT void rw_grad_input(const int64_t* layer, const float* dy, const float* y, const float* values,
                                 const int32_t* pointers, const uint16_t* offsets, const int32_t* order, float* dx, int threads);

// grad[count] = gradient of the active weights, from the input and the gradient of the output.
REWIRE_EXPORT void rw_grad_values(const int64_t* layer, const float* x, const float* dy, const float* y,
                                  const int32_t* pointers, const uint16_t* offsets, const int32_t* order, float* grad,
                                  int threads);

// grad[out] = gradient of the bias, from the gradient of the output.
REWIRE_EXPORT void rw_grad_bias(const int64_t* layer, const float* dy, const float* y, float* grad, int threads);

// ---- layout.cpp: between an ordinary tensor (rows, channels, height, width), by its strides in floats, and a blocked one

// y = x in the layout; lanes past `rows` are 0. Runs of an image in memory and channels-last ones are fast.
REWIRE_EXPORT void rw_block(int64_t rows, int64_t channels, int64_t height, int64_t width, int64_t stride_n,
                            int64_t stride_c, int64_t stride_y, int64_t stride_x, const float* x, float* y, int threads);

// y = the first `rows` images of the blocked x; the strides are those of y.
REWIRE_EXPORT void rw_unblock(int64_t rows, int64_t channels, int64_t height, int64_t width, int64_t stride_n,
                              int64_t stride_c, int64_t stride_y, int64_t stride_x, const float* x, float* y,
                              int threads);

// ---- normalisation.cpp: batch norm of a blocked (channels, places) tensor, y = (x - mean) * inverse * gamma + beta, then
// + residual, then ReLU. gamma, beta and residual may be null. Tail lanes are written as 0.

// Statistics of the batch. Writes mean, inverse = 1 / sqrt(variance + eps), and the unbiased variance, [channels] each.
REWIRE_EXPORT void rw_batch_norm_train(int64_t rows, int64_t channels, int64_t places, const float* x,
                                       const float* gamma, const float* beta, const float* residual, int relu,
                                       double eps, float* y, float* mean, float* inverse, float* variance, int threads);

// Given statistics.
REWIRE_EXPORT void rw_batch_norm_eval(int64_t rows, int64_t channels, int64_t places, const float* x, const float* mean,
                                      const float* variance, const float* gamma, const float* beta,
                                      const float* residual, int relu, double eps, float* y, int threads);

// Gradients of x (dx, may be null), gamma, beta and, behind a ReLU only, the residual (may be null). With relu and y
// null, y is computed again from x, which costs less than to read it; with a residual y is needed. dy must be 0 in the
// tail.
REWIRE_EXPORT void rw_batch_norm_backward(int64_t rows, int64_t channels, int64_t places, int training, int relu,
                                          const float* dy, const float* x, const float* y, const float* mean,
                                          const float* inverse, const float* gamma, const float* beta, float* dx,
                                          float* dgamma, float* dbeta, float* dresidual, int threads);

// ---- pooling.cpp. `pooling` is int64[9]: planes (blocks * channels), height, width, kernel_h, kernel_w, stride_h,
// stride_w, pad_h, pad_w, sizes of the input. The number of outputs is rounded down.

// index: uint8 number in the window, in the shape of y, of the first largest element; may be null.
REWIRE_EXPORT void rw_max_pool(const int64_t* pooling, const float* x, float* y, uint8_t* index, int threads);
REWIRE_EXPORT void rw_max_pool_backward(const int64_t* pooling, const float* dy, const uint8_t* index, float* dx,
                                        int threads);

// include_padding: the zeros of the padding count in the mean.
REWIRE_EXPORT void rw_average_pool(const int64_t* pooling, const float* x, int include_padding, float* y, int threads);
REWIRE_EXPORT void rw_average_pool_backward(const int64_t* pooling, const float* dy, int include_padding, float* dx,
                                            int threads);

// ---- peak.cpp

// Multiplies and adds in registers on every thread, and returns the floating-point operations done.
REWIRE_EXPORT double rw_multiply_add(int64_t rounds, int threads);
