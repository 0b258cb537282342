// The gradient's norm, and gradient descent.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"
#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long PIECE = 1 << 14;  // elements whose squares are summed in float before they join the double

inline double sum_of_squares(long n, const float* x) {
  vf s[4] = {};
  double total = 0;
  long i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL)
    for (int u = 0; u < 4; u++) {
      const vf v = load(x + i + u * VL);
      s[u] += v * v;
    }
  for (; i < n; i++) total += static_cast<double>(x[i]) * x[i];
  for (int u = 0; u < 4; u++)
    for (int v = 0; v < VL; v++) total += s[u][v];
  return total;
}

// The sum of the squares of all numbers in `count` tensors: in pieces of fixed size, so that it does not depend on the threads.
// `pieces` is scratch: the sum of (n / PIECE) rounded up.
inline double sum_of_squares(long count, const int64_t* n, const float* const* x, double* pieces, int threads) {
  const auto pieces_of = [&](long i) { return (n[i] + PIECE - 1) / PIECE; };
  long all = 0;
  for (long i = 0; i < count; i++) all += pieces_of(i);
  parallel(all <= 4 ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    const Part part(all, id, n_threads);
    for (long i = 0, first = 0; i < count; first += pieces_of(i++))
      for (long p = std::max(part.begin - first, 0L); p < std::min(part.end - first, pieces_of(i)); p++)
        pieces[first + p] = sum_of_squares(std::min(PIECE, n[i] - p * PIECE), x[i] + p * PIECE);
  });
  double total = 0;
  for (long p = 0; p < all; p++) total += pieces[p];
  return total;
}

// w -= rate * (factor * g + decay * w) for `count` tensors.
inline void descend(long count, const int64_t* n, float* const* w, const float* const* g, float rate, float factor, float decay,
                    int threads) {
  long all = 0;
  for (long i = 0; i < count; i++) all += n[i];
  parallel(all <= 4 * PIECE ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    for (long t = 0; t < count; t++) {
      const Part part((n[t] + VL - 1) / VL, id, n_threads);
      for (long i = part.begin * VL; i < part.end * VL; i += VL) {
        const vf x = load_some(w[t] + i, n[t] - i);
        store_some(w[t] + i, x - rate * (factor * load_some(g[t] + i, n[t] - i) + decay * x), n[t] - i);
      }
    }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
