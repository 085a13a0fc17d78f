// The native vector of the instruction set that this file is compiled for, by GCC and Clang vector extensions.
//
// A blocked activation has 16 lanes on every processor; a native vector holds LANES of them, so that 16 / LANES
// native vectors make a group of lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

constexpr int GROUP = 16;  // lanes of the layout, the same on every processor

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int REGISTERS = 32;
#else
constexpr int LANES = 4;
constexpr int REGISTERS = 16;
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef float Loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

static inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
static inline void store(float* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }

// Stores past the caches, without reading the line first: for what is too large to be there still when it is read, where
// worth_past() says so. finish_past() before others may read.
constexpr int64_t CACHE = 4 << 20;  // bytes

static inline bool worth_past(const float* to, int64_t floats) {
  return floats * static_cast<int64_t>(sizeof(float)) > CACHE && reinterpret_cast<uintptr_t>(to) % sizeof(Vector) == 0;
}

#if defined(__AVX512F__)
static inline void store_past(float* to, Vector value) { _mm512_stream_ps(to, (__m512)value); }
#elif defined(__AVX2__)
static inline void store_past(float* to, Vector value) { _mm256_stream_ps(to, (__m256)value); }
#elif defined(__SSE2__)
static inline void store_past(float* to, Vector value) { _mm_stream_ps(to, (__m128)value); }
#else
static inline void store_past(float* to, Vector value) { store(to, value); }
#endif
#if defined(__SSE2__)
static inline void finish_past() { _mm_sfence(); }
#else
static inline void finish_past() {}
#endif

static inline Vector broadcast(float value) { return value - Vector{}; }  // GCC and Clang emit one broadcast

static inline void fetch(const float* from) { __builtin_prefetch(from, 0, 2); }  // into the second-level cache

typedef int32_t Mask __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline Vector only(Mask mask, Vector value) { return (Vector)((Mask)value & mask); }
static inline Mask passes(Vector y) { return ~(Mask)(y <= Vector{}); }  // where ReLU, whose result y is, lets a gradient by
static inline Vector positive(Vector value) { return only(passes(value), value); }  // ReLU; NaN stays, as in torch
