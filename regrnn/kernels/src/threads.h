// Threads of the OpenMP pool that torch uses too, and a barrier for them.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace regrnn {

// Whether this process was forked from one that had loaded the core: OpenMP's threads do not survive a fork.
extern bool forked;

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void wait() {
    if (threads_ == 1) return;
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    // Spinning costs least while every thread has a core; where it has none, the others need ours.
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
      if (spins < 4096)
        pause();
      else
        sched_yield();
    }
  }

 private:
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

// Runs body(id, threads, barrier) on every thread.
template <class Body>
void parallel(int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && !forked && !omp_in_parallel()) {
    // The region may get fewer threads than it asks for, so the barrier is made when their number is known.
    alignas(Barrier) unsigned char place[sizeof(Barrier)];
    Barrier* barrier = nullptr;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
      barrier = new (place) Barrier(omp_get_num_threads());
      body(omp_get_thread_num(), omp_get_num_threads(), *barrier);
    }
    return;
  }
#endif
  Barrier alone(1);
  body(0, 1, alone);
}

// Hands out 0, 1, 2, ... to threads that are never equally fast: other programs and other kinds of cores see to that.
class Turns {
 public:
  long next() { return next_.fetch_add(1, std::memory_order_relaxed); }
  // What comes next, to whom it may.
  long coming() const { return next_.load(std::memory_order_relaxed); }
  // To be called where no thread can be asking.
  void again() { next_.store(0, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<long> next_{0};
};

// The part of n things that is thread `id`'s.
struct Part {
  long begin, end;
  Part(long n, int id, int threads) : begin(n * id / threads), end(n * (id + 1) / threads) {}
};

// Parts of some work, round after round, with a barrier between two of them. A thread does its own part from its beginning,
// and then what is left of slower ones' from their ends, so that it is mostly the same memory that a thread reads.
class Rounds {
 public:
  // Calls visit(whose, i) for what this thread gets of i < n(whose) of each thread's part. Rounds are counted from 0.
  template <class Count, class Visit>
  void each(int id, int threads, long round, const Count& n, const Visit& visit) {
    if (threads > MOST) {
      for (long i = 0; i < n(id); i++) visit(id, i);
      return;
    }
    taken_[(round + 1) % 2][id].both.store(0, std::memory_order_relaxed);
    for (int k = 0; k < threads; k++) {
      const int whose = (id + k) % threads;
      std::atomic<uint64_t>& both = taken_[round % 2][whose].both;
      const uint64_t one = k == 0 ? uint64_t{1} << 32 : 1;
      for (const long count = n(whose);;) {
        const uint64_t now = both.fetch_add(one, std::memory_order_relaxed);
        const long first = static_cast<long>(now >> 32), last = static_cast<long>(now & 0xFFFFFFFFu);
        if (first + last >= count) break;
        visit(whose, k == 0 ? first : count - 1 - last);
      }
    }
  }

 private:
  static constexpr int MOST = 64;  // threads; where there are more, each keeps to its own
  struct alignas(64) Taken {
    std::atomic<uint64_t> both{0};  // from the beginning, in the upper half, and from the end
  };
  Taken taken_[2][MOST];
};

}  // namespace regrnn
