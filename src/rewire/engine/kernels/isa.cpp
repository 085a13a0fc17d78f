// Which instruction set this library was compiled for, and which this processor has.
//
// No vector is touched here: library.py asks every library it loads, and code for another processor would crash.
#include "rewire.h"

enum { BASE = 0, AVX2 = 1, AVX512 = 2 };

REWIRE_EXPORT int rw_interface() { return REWIRE_INTERFACE; }

REWIRE_EXPORT int rw_compiled_isa() {
#if defined(__AVX512F__)
    return AVX512;
#elif defined(__AVX2__)
    return AVX2;
#else
    return BASE;
#endif
}

REWIRE_EXPORT int rw_supported_isa() {
#if defined(__x86_64__)
    // The compiler's own test: the processor's flags, and the operating system's leave to use the registers (XCR0).
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    return avx2 ? (avx512 ? AVX512 : AVX2) : BASE;
#else
    return BASE;
#endif
}
