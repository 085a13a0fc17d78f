// What the processor could do at most, so that a benchmark can say how much of it the kernels use.
#include "parallel.h"
#include "rewire.h"
#include "vector.h"

// The compiler must not see through the loop. "x" and "w" are the vector registers of x86 and ARM.
#if defined(__aarch64__)
#define KEEP(value) asm volatile("" : "+w"(value))
#elif defined(__AVX512F__)
#define KEEP(value) asm volatile("" : "+v"(value))
#else
#define KEEP(value) asm volatile("" : "+x"(value))
#endif

double rw_multiply_add(int64_t rounds, int threads) {
  constexpr int SUMS = REGISTERS - 4;
  parallel(threads, [&](int, int) {
    Vector sums[SUMS] = {}, factor = broadcast(0.5f);
    for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
      for (int k = 0; k < SUMS; ++k) {
        sums[k] = sums[k] * factor + factor;
        KEEP(sums[k]);
      }
    }
  });
  return 2.0 * SUMS * LANES * rounds * threads;
}
