// The gradient's norm, and gradient descent.
#pragma once

#include "threads.h"
#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long PIECE = 1 << 14;  // elements whose squares are summed in float before they join the double

// The sum of the squares of n numbers: in pieces of fixed size, so that it does not depend on the threads. `pieces` is
// scratch: (ceil(n / PIECE)).
inline double sum_of_squares(long n, const float* x, double* pieces, int threads) {
  const long count = (n + PIECE - 1) / PIECE;
  parallel(n < 4 * PIECE ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    const Part part(count, id, n_threads);
    for (long p = part.begin; p < part.end; p++) {
      const long begin = p * PIECE, end = begin + PIECE < n ? begin + PIECE : n;
      vf s[4] = {};
      double tail = 0;
      long i = begin;
      for (; i + 4 * VL <= end; i += 4 * VL)
        for (int u = 0; u < 4; u++) {
          const vf v = load(x + i + u * VL);
          s[u] += v * v;
        }
      for (; i < end; i++) tail += static_cast<double>(x[i]) * x[i];
      pieces[p] = tail;
      for (int u = 0; u < 4; u++)
        for (int v = 0; v < VL; v++) pieces[p] += s[u][v];
    }
  });
  double total = 0;
  for (long p = 0; p < count; p++) total += pieces[p];
  return total;
}

// w -= rate * (factor * g + decay * w)
inline void descend(long n, float* w, const float* g, float rate, float factor, float decay, int threads) {
  parallel(n < 4 * PIECE ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    const Part part((n + VL - 1) / VL, id, n_threads);
    for (long i = part.begin * VL; i < part.end * VL; i += VL) {
      const vf x = load_some(w + i, n - i);
      store_some(w + i, x - rate * (factor * load_some(g + i, n - i) + decay * x), n - i);
    }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
