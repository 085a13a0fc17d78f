#include "parallel.h"

#include <atomic>

#include "rewire.h"

#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#endif

namespace {

// What GCC compiles `#pragma omp parallel num_threads(n)` to; the runtimes of LLVM and Intel offer it too.
typedef void (*Parallel)(void (*member)(void*), void* data, unsigned threads, unsigned flags);
typedef int (*ThreadNumber)();

std::atomic<Parallel> openmp_parallel{nullptr};
std::atomic<ThreadNumber> openmp_thread_num{nullptr};

}  // namespace

#if defined(__SANITIZE_THREAD__)

// The sanitizer does not see into OpenMP's runtime and would report every join as a race: plain threads, for it alone.
void run_parallel(int threads, void (*body)(void*, int, int), void* data) {
    std::vector<std::thread> others;
    for (int share = 1; share < threads; ++share) others.emplace_back(body, data, share, threads);
    body(data, 0, threads);
    for (std::thread& other : others) other.join();
}

#else

namespace {

struct Team {
    void (*body)(void*, int, int);
    void* data;
    int threads;
    ThreadNumber number;
    std::atomic<int> came;
};

void member(void* data) {
    Team& team = *static_cast<Team*>(data);
    team.came.fetch_add(1, std::memory_order_relaxed);
    const int number = team.number();
    if (number < team.threads) team.body(team.data, number, team.threads);
}

}  // namespace

void run_parallel(int threads, void (*body)(void*, int, int), void* data) {
    const Parallel start = openmp_parallel.load(std::memory_order_acquire);
    if (start == nullptr) {
        body(data, 0, 1);
        return;
    }
    Team team{body, data, threads, openmp_thread_num.load(std::memory_order_relaxed), {0}};
    start(member, &team, static_cast<unsigned>(threads), 0);
    // The runtime may send fewer threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC, a region inside another), which
    // then are numbers 0 .. came - 1. The split stays the one asked for, and the shares left over are done here.
    for (int share = team.came.load(std::memory_order_relaxed); share < threads; ++share) body(data, share, threads);
}

#endif

REWIRE_EXPORT void rw_set_openmp(void* gomp_parallel, void* omp_get_thread_num) {
    const bool both = gomp_parallel != nullptr && omp_get_thread_num != nullptr;
    openmp_thread_num.store(both ? reinterpret_cast<ThreadNumber>(omp_get_thread_num) : nullptr,
                            std::memory_order_relaxed);
    openmp_parallel.store(both ? reinterpret_cast<Parallel>(gomp_parallel) : nullptr, std::memory_order_release);
}

REWIRE_EXPORT int rw_count_threads(int threads) {
    // Each thread leaves the address of its own copy of a variable. Waiting for one another would tell the same, but
    // would hang where the runtime sends fewer threads.
    static thread_local char own;
    constexpr int most = 1024;
    const char* copies[most] = {};
    if (threads > most) threads = most;
    parallel(threads, [&](int thread, int) { copies[thread] = &own; });
    int count = 0;
    for (int thread = 0; thread < threads; ++thread) {
        bool known = copies[thread] == nullptr;
        for (int other = 0; other < thread; ++other) known = known || copies[other] == copies[thread];
        count += !known;
    }
    return count;
}
