// Threads: one body, run once by each thread of the OpenMP runtime that torch has loaded.
//
// Nothing here links OpenMP. A second runtime would bring a second pool of threads, which would wait in its own busy
// loops on the same cores; so the entry points of torch's own runtime are handed over by rw_set_openmp. Where none was
// handed over, one thread does all the work.
#pragma once

// Runs body(data, thread, threads) for every thread 0 .. threads - 1 and returns when all have finished.
void run_parallel(int threads, void (*body)(void* data, int thread, int threads), void* data);

// Calls body(thread, threads) once for every thread 0 .. threads - 1. Work must be split statically by thread, so that
// results are the same in every run with as many threads. `threads` may be lower than asked where there is no OpenMP:
// split by the argument of the body. With one thread nothing but the body is called, so a forked process is safe.
// A body must not throw and must not call parallel() again.
template <class Body>
void parallel(int threads, const Body& body) {
    if (threads <= 1) {
        body(0, 1);
        return;
    }
    run_parallel(
        threads,
        [](void* data, int thread, int team) { (*static_cast<const Body*>(data))(thread, team); },
        const_cast<void*>(static_cast<const void*>(&body)));
}
