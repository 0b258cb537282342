// Rows of a matrix by their numbers: an embedding, the sparse gradient at its weights, and its update.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "threads.h"
#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long FEW_FLOATS = 1 << 15;  // that one thread moves sooner than it wakes another

// out (N, E) = the rows of weight (V, E) that tokens (N) name. False, and nothing done: there is one outside of [0, V).
inline bool gather_rows(long N, long E, long V, const int64_t* tokens, const float* weight, float* out, int threads) {
  for (long i = 0; i < N; i++)
    if (tokens[i] < 0 || tokens[i] >= V) return false;
  parallel(N * E <= FEW_FLOATS ? 1 : threads, [&](int id, int n, Barrier&) {
    constexpr long AHEAD = 4;  // rows: they lie anywhere, where no processor looks ahead
    const Part part(N, id, n);
    for (long i = part.begin; i < part.end; i++) {
      const float* coming = weight + tokens[std::min(i + AHEAD, part.end - 1)] * E;
      for (long j = 0; j < E; j += 16) fetch(coming + j);
      std::memcpy(out + i * E, weight + tokens[i] * E, static_cast<size_t>(E) * sizeof(float));
    }
  });
  return true;
}

// The tokens that occur, in order, into rows (at most N); how many there are. place (V) is scratch, and afterwards holds of
// each of them where it is among the rows.
inline long rows_in_use(long N, long V, const int64_t* tokens, int32_t* place, int64_t* rows) {
  std::memset(place, 0, static_cast<size_t>(V) * sizeof(int32_t));
  for (long i = 0; i < N; i++) place[tokens[i]] = 1;
  long count = 0;
  for (long v = 0; v < V; v++) {
    if (place[v] == 0) continue;
    rows[count] = v;
    place[v] = static_cast<int32_t>(count++);
  }
  return count;
}

// sums (count, E): of the rows of d (N, E) that belong to the same token, in the order in which they come.
inline void sum_rows(long N, long E, long count, const int64_t* tokens, const int32_t* place, const float* d, float* sums,
                     int threads) {
  parallel(N * E <= FEW_FLOATS ? 1 : threads, [&](int id, int n, Barrier&) {
    const Part part((E + VL - 1) / VL, id, n);
    const long begin = part.begin * VL, end = std::min(E, part.end * VL);
    if (begin >= end) return;
    for (long r = 0; r < count; r++) std::fill(sums + r * E + begin, sums + r * E + end, 0.f);
    for (long i = 0; i < N; i++) {
      float* out = sums + place[tokens[i]] * E;
      for (long j = begin; j < end; j += VL)
        store_some(out + j, load_some(out + j, end - j) + load_some(d + i * E + j, end - j), end - j);
    }
  });
}

// w[rows[i]] -= rate * g[i] for `count` rows of E.
inline void descend_rows(long count, long E, const int64_t* rows, const float* g, float* w, float rate, int threads) {
  parallel(count * E <= FEW_FLOATS ? 1 : threads, [&](int id, int n, Barrier&) {
    const Part part(count, id, n);
    for (long i = part.begin; i < part.end; i++)
      for (long j = 0; j < E; j += VL) {
        float* out = w + rows[i] * E + j;
        store_some(out, load_some(out, E - j) - rate * load_some(g + i * E + j, E - j), E - j);
      }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
