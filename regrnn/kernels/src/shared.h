// Products with a matrix of which a dropout mask, shared by the rows of a group, has struck whole columns.
//
// What is struck is left out, step by step: in the input projection the rows of a packed panel, in the gradient at the
// input the outputs, and in the weights' gradient the rows that a group adds to. Sums run over the same k in the same
// order whatever the number of threads.
#pragma once

#include <algorithm>

#include "gemm.h"
#include "layer.h"

namespace regrnn {
namespace REGRNN_ISA {

inline void list_kept(const Shared& s) {
  for (long g = 0; g < s.groups; g++) {
    int32_t n = 0;
    for (long k = 0; k < s.K; k++)
      if (s.mask[g * s.K + k] != 0) s.kept[g * s.K + n++] = static_cast<int32_t>(k);
    s.count[g] = n;
  }
}

// Where in its list the features of group g from k on begin.
inline long kept_from(const Shared& s, long g, long k) {
  const int32_t* list = s.kept + g * s.K;
  return std::lower_bound(list, list + s.count[g], static_cast<int32_t>(k)) - list;
}

// out[row][i] = x[row][kept i] times its mask, this thread's part of the groups; rows stay K apart.
inline void compact(int id, int threads, const Shared& s, const float* x, float* out) {
  const Part part(s.groups, id, threads);
  for (long g = part.begin; g < part.end; g++) {
    const int32_t* list = s.kept + g * s.K;
    const float* mask = s.mask + g * s.K;
    for (long r = s.first[g]; r < s.first[g + 1]; r++)
      for (long i = 0; i < s.count[g]; i++) out[r * s.K + i] = x[r * s.K + list[i]] * mask[list[i]];
  }
}

// The same turned: group g is [kept i][row of the group] from first[g] * K on, each row times its factor.
inline void compact_turned(int id, int threads, const Shared& s, const float* x, const float* row_factor, float factor,
                           float* out) {
  const Part part(s.groups, id, threads);
  for (long g = part.begin; g < part.end; g++) {
    const int32_t* list = s.kept + g * s.K;
    const float* mask = s.mask + g * s.K;
    const long rows = s.first[g + 1] - s.first[g];
    float* to = out + s.first[g] * s.K;
    for (long r = 0; r < rows; r++) {
      const float f = row_factor == nullptr ? factor : factor * row_factor[s.first[g] + r];
      const float* from = x + (s.first[g] + r) * s.K;
      for (long i = 0; i < s.count[g]; i++) to[i * rows + r] = f * from[list[i]] * mask[list[i]];
    }
  }
}

// C = D(x) B, N x `columns`, from compacted x. `values` is scratch of this thread: (N, NR).
template <class Source, class Sink>
void shared_multiply(int id, int threads, const Shared& s, long columns, const float* x, const Source& b,
                     const Sink& sink, float* values) {
  alignas(64) static thread_local float packed[KB * NR];
  const Part part((columns + NR - 1) / NR, id, threads);
  for (long panel = part.begin; panel < part.end; panel++) {
    for (long k0 = 0; k0 < s.K; k0 += KB) {
      const long n = std::min(KB, s.K - k0);
      const float* rows_from_0 = b.pack(panel, k0, n, packed) - k0 * NR;
      for (long g = 0; g < s.groups; g++) {
        const long begin = kept_from(s, g, k0), count = kept_from(s, g, k0 + n) - begin;
        const long rows = s.first[g + 1] - s.first[g], tiles = tiles_of(rows);
        for (long i = 0; i < tiles; i++) {
          const long r = s.first[g] + tile_start(rows, tiles, i), height = s.first[g] + tile_start(rows, tiles, i + 1) - r;
          tile_rows_indexed(static_cast<int>(height), count, x + r * s.K + begin, s.K, rows_from_0,
                            s.kept + g * s.K + begin, values + r * NR, k0 > 0);
        }
      }
    }
    sink(panel, 0, s.N, values);
  }
}

// c[r][lane] (+)= sum over k < K of a[row r][k] b[k][lane] for R rows and W vectors of lanes; rows of A by pointer.
template <int R, int W>
void tile_listed(long K, const float* const* a, const float* b, float* c, long ldc, bool add) {
  vf acc[R][W];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a[r];
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) acc[r][w] = add ? load(c + r * ldc + w * VL) : vf{};
  }
  for (long k = 0; k < K; k++, b += W * VL) {
    vf bk[W];
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) bk[w] = load(b + w * VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
#pragma GCC unroll 3
      for (int w = 0; w < W; w++) acc[r][w] += x * bk[w];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) store(c + r * ldc + w * VL, acc[r][w]);
}

template <int W>
void tiles_listed(long n, long K, const float* w, long ldw, const int32_t* list, const float* b, float* c, long ldc,
                  bool add) {
  constexpr int R = W == 3 ? 4 : W == 2 ? 6 : 8;
  const float* rows[R];
  for (; n >= R; n -= R, list += R, c += R * ldc) {
    for (int r = 0; r < R; r++) rows[r] = w + list[r] * ldw;
    tile_listed<R, W>(K, rows, b, c, ldc, add);
  }
  for (; n > 0; n--, list++, c += ldc) {
    rows[0] = w + *list * ldw;
    tile_listed<1, W>(K, rows, b, c, ldc, add);
  }
}

// Lanes that the rows of a group take.
REGRNN_INLINE long lanes_of(long rows) { return (rows + VL - 1) / VL * VL; }

// dx = D(d B^T) for B (K of d's columns): turned is B^T, (s.K, K); Turner packs d: pack(k0, n, first_row, rows, lanes,
// out) gives out[k][lane]. Columns that are struck become 0. sums is scratch: (N + groups VL) K floats.
template <class Turner>
void shared_input_gradient(int id, int threads, const Shared& s, long K, const float* turned, const Turner& d,
                           const float* row_factor, float factor, float* dx, float* sums) {
  alignas(64) static thread_local float packed[KB * 3 * VL];
  const Part part(s.K, id, threads);  // of the features
  for (long k0 = 0; k0 < K; k0 += KB) {
    const long n = std::min(KB, K - k0);
    float* group_sums = sums;
    for (long g = 0; g < s.groups; g++) {
      const long begin = kept_from(s, g, part.begin), count = kept_from(s, g, part.end) - begin;
      const long rows = s.first[g + 1] - s.first[g], lanes = lanes_of(rows);
      const int32_t* list = s.kept + g * s.K + begin;
      for (long lane = 0; lane < lanes;) {
        const long vectors = (lanes - lane) / VL, width = vectors == 4 ? 2 : std::min(vectors, 3L);
        d.pack(k0, n, s.first[g] + lane, std::min(width * VL, rows - lane), width * VL, packed);
        float* c = group_sums + begin * lanes + lane;
        const float* w = turned + k0;
        if (width == 3)
          tiles_listed<3>(count, n, w, K, list, packed, c, lanes, k0 > 0);
        else if (width == 2)
          tiles_listed<2>(count, n, w, K, list, packed, c, lanes, k0 > 0);
        else
          tiles_listed<1>(count, n, w, K, list, packed, c, lanes, k0 > 0);
        lane += width * VL;
      }
      group_sums += lanes * s.K;
    }
  }
  const float* group_sums = sums;
  for (long g = 0; g < s.groups; g++) {
    const long begin = kept_from(s, g, part.begin), end = kept_from(s, g, part.end);
    const long rows = s.first[g + 1] - s.first[g], lanes = lanes_of(rows);
    for (long r = 0; r < rows; r++) {
      const long row = s.first[g] + r;
      const float f = row_factor == nullptr ? factor : factor * row_factor[row];
      float* out = dx + row * s.K;
      std::memset(out + part.begin, 0, (part.end - part.begin) * sizeof(float));
      for (long i = begin; i < end; i++) {
        const long k = s.kept[g * s.K + i];
        out[k] = f * s.mask[g * s.K + k] * group_sums[i * lanes + r];
      }
    }
    group_sums += lanes * s.K;
  }
}

// d given by rows, ld apart.
struct TurnRows {
  const float* p;
  long ld;
  void pack(long k0, long n, long first, long rows, long lanes, float* out) const {
    if (rows < lanes) std::memset(out, 0, n * lanes * sizeof(float));
    for (long r = 0; r < rows; r++) {
      const float* from = p + (first + r) * ld + k0;
      for (long k = 0; k < n; k++) out[k * lanes + r] = from[k];
    }
  }
};

// d given by panels, [K / NR][N][NR].
struct TurnPanels {
  const float* p;
  long N;
  void pack(long k0, long n, long first, long rows, long lanes, float* out) const {
    if (rows < lanes) std::memset(out, 0, n * lanes * sizeof(float));
    for (long k = 0; k < n; k += NR) {
      const float* from = p + ((k0 + k) / NR * N + first) * NR;
      const long width = std::min<long>(NR, n - k);
      for (long r = 0; r < rows; r++)
        for (long i = 0; i < width; i++) out[(k + i) * lanes + r] = from[r * NR + i];
    }
  }
};

// Rows list[r] of c, NR wide, += a[r][k] b[k], k < K.
template <int R>
void tile_scattered(long K, const float* a, long lda, const float* b, float* c, const int32_t* list) {
  vf acc[R][2];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a + r * lda;
    acc[r][0] = load(c + list[r] * NR);
    acc[r][1] = load(c + list[r] * NR + VL);
  }
  for (long k = 0; k < K; k++) {
    const vf b0 = load(b + k * NR), b1 = load(b + k * NR + VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    store(c + list[r] * NR, acc[r][0]);
    store(c + list[r] * NR + VL, acc[r][1]);
  }
}

// c (columns, s.K) = (D(x)^T b)^T and the column sums of b, from x compacted and turned. Scratch of this thread:
// packed (N, NR), values (s.K, NR).
template <class Source>
void shared_weight_gradient(int id, int threads, const Shared& s, long columns, const float* x, const Source& b,
                            const IntoColumns& sink, float* packed, float* values) {
  const Part part((columns + NR - 1) / NR, id, threads);
  for (long panel = part.begin; panel < part.end; panel++) {
    const float* rows_of_b = b.pack(panel, 0, s.N, packed);
    vf sums[2] = {};
    for (long r = 0; r < s.N; r++) {
      const vf w = splat(sink.weight(r));
      sums[0] += w * load(rows_of_b + r * NR);
      sums[1] += w * load(rows_of_b + r * NR + VL);
    }
    std::memset(values, 0, s.K * NR * sizeof(float));
    for (long g = 0; g < s.groups; g++) {
      const long rows = s.first[g + 1] - s.first[g];
      const float* a = x + s.first[g] * s.K;
      const float* bg = rows_of_b + s.first[g] * NR;
      const int32_t* list = s.kept + g * s.K;
      long i = 0;
      for (; i + 6 <= s.count[g]; i += 6) tile_scattered<6>(rows, a + i * rows, rows, bg, values, list + i);
      for (; i < s.count[g]; i++) tile_scattered<1>(rows, a + i * rows, rows, bg, values, list + i);
    }
    sink(panel, 0, s.K, values);
    float out[NR];
    store(out, sums[0]);
    store(out + VL, sums[1]);
    sink.sums(panel, out);
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
