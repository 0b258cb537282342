// What the processor can do at most: fused multiply-adds of vectors in registers, nothing else. Compiled when the
// benchmarks run, for the machine they run on.
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int FLOATS = 16, SUMS = 24;
#elif defined(__AVX__)
constexpr int FLOATS = 8, SUMS = 12;
#elif defined(__aarch64__)
constexpr int FLOATS = 4, SUMS = 24;
#else
constexpr int FLOATS = 4, SUMS = 12;
#endif

typedef float vf __attribute__((vector_size(FLOATS * 4)));

// A multiply-add that the compiler must neither leave out nor do in memory.
inline __attribute__((always_inline)) void multiply_add(vf& sum, vf factor, vf term) {
  sum = sum * factor + term;
#if defined(__AVX512F__)
  asm volatile("" : "+v"(sum));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(sum));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(sum));
#endif
}

// Enough independent sums that none waits for its last multiply-add, few enough for the registers. Written out by the
// template, since the compiler keeps an array that is looped over in memory.
template <std::size_t... I>
static float turns(long n, std::index_sequence<I...>) {
  const vf factor = vf{} + 0.999f, term = vf{} + 1e-7f;
  vf sums[] = {(static_cast<void>(I), term)...};
  for (long k = 0; k < n; k++) (multiply_add(sums[I], factor, term), ...);
  return (sums[I][0] + ...);
}

static float turns(long n) { return turns(n, std::make_index_sequence<SUMS>()); }

extern "C" double operations(long n, int threads) { return 2.0 * FLOATS * SUMS * n * threads; }

// Wall seconds of n turns on each thread.
extern "C" double seconds(long n, int threads) {
  std::vector<float> out(threads * 16);
  std::vector<std::thread> others;
  const auto began = std::chrono::steady_clock::now();
  for (int t = 1; t < threads; t++) others.emplace_back([&out, n, t] { out[t * 16] = turns(n); });
  out[0] = turns(n);
  for (std::thread& other : others) other.join();
  volatile float used = out[0];
  (void)used;
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}
