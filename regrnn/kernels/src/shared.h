// Products with a matrix of which a dropout mask, shared by the rows of a group, has struck whole columns.
//
// What is struck is left out, step by step: in the input projection the rows of a packed panel, in the gradient at the
// input the outputs, and in the weights' gradient the rows that a group adds to. Sums run over the same k in the same
// order whatever the number of threads.
#pragma once

#include <algorithm>

#include "gemm.h"
#include "layer.h"
#include "scratch.h"

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

// Features whose part of panels side by side stays in a first-level cache while all groups pass.
constexpr long FEATURES_IN_CACHE = 6 * 1024 / (PAIR * NR);

// Floats of scratch of its own that a thread needs for each of the products here.
REGRNN_INLINE long own_floats(const Shared& s) {
  return whole_lines(PAIR * (s.K + s.N) * NR + s.groups * (s.K / FEATURES_IN_CACHE + 2));
}

// Where in their lists the groups' features of each part of the depth begin and end.
class Places {
 public:
  Places(const Shared& s, long depth, float* own)
      : parts((s.K + depth - 1) / std::max(1L, depth)), starts_(reinterpret_cast<int32_t*>(own + PAIR * (s.K + s.N) * NR)) {
    for (long g = 0; g < s.groups; g++)
      for (long i = 0; i <= parts; i++) starts_[g * (parts + 1) + i] = static_cast<int32_t>(kept_from(s, g, i * depth));
  }
  long begin(long g, long part) const { return starts_[g * (parts + 1) + part]; }
  long end(long g, long part) const { return starts_[g * (parts + 1) + part + 1]; }

  const long parts;

 private:
  int32_t* const starts_;
};

// C = D(x) B, N x `columns`, from compacted x: the panels that this thread gets of `turns`, or all where there are none.
// `own` is scratch of this thread.
template <class Source, class Sink>
void shared_multiply(Turns* turns, const Shared& s, long columns, const float* x, const Source& b, const Sink& sink,
                     float* own) {
  // With AVX-512 a second-level cache serves as well, and less is added to what lies in memory.
  const long depth = VL == 16 ? s.K : std::min(FEATURES_IN_CACHE, s.K);
  const Places places(s, depth, own);
  const long panels = (columns + NR - 1) / NR, apart = s.N * NR;
  float *values = own, *packed = own + PAIR * apart;
  if (s.K == 0) std::memset(values, 0, PAIR * apart * sizeof(float));
  for (long i = 0, p; (p = (turns == nullptr ? i : turns->next()) * PAIR) < panels; i++) {
    const long wide = std::min<long>(PAIR, panels - p);
    for (long part = 0; part < places.parts; part++) {
      const long k0 = part * depth, n = std::min(depth, s.K - k0);
      for (long w = 0; w < wide; w++) b.pack(p + w, k0, n, packed + w * depth * NR);
      for (long g = 0; g < s.groups; g++) {
        const long begin = places.begin(g, part), count = places.end(g, part) - begin;
        const int32_t* list = s.kept + g * s.K + begin;
        const long rows = s.first[g + 1] - s.first[g], tiles = tiles_of(rows);
        const float *a = x + s.first[g] * s.K + begin, *panel = packed - k0 * NR;
        float* c = values + s.first[g] * NR;
        for (long t = 0; t < tiles; t++) {
          const long r = tile_start(rows, tiles, t), height = tile_start(rows, tiles, t + 1) - r;
          if (wide == 2)
            tile_rows_indexed<PAIR>(static_cast<int>(height), count, a + r * s.K, s.K, panel, depth * NR, list, c + r * NR,
                                    apart, part > 0);
          else
            tile_rows_indexed<1>(static_cast<int>(height), count, a + r * s.K, s.K, panel, 0, list, c + r * NR, 0, part > 0);
        }
        for (long w = 0; part + 1 == places.parts && w < wide; w++) sink(p + w, s.first[g], rows, c + w * apart);
      }
    }
    for (long w = 0; s.K == 0 && w < wide; w++) sink(p + w, 0, s.N, values + w * apart);
  }
}

constexpr int DOT_FEATURES = VL == 16 ? 4 : 3, DOT_ROWS = 4;
constexpr long DOT_DEPTH = 384;  // of w that is turned at a time, in whole panels
constexpr long DOT_BLOCK = 32;   // rows of d whose part of that depth waits in a first-level cache

// c[f * ldc + r] (+)= sum over k < K of w[f][k] d[r * ldd + k]: vectors run along k, in whole panels. Of the features the
// first `count` are written.
inline void tile_of_dots(long K, const float* const* w, const float* d, long ldd, int count, float* c, long ldc, bool add) {
  constexpr int F = DOT_FEATURES, R = DOT_ROWS;
  constexpr int ALL = (F * R + VL - 1) / VL * VL;  // sums are made of whole vectors of vectors
  vf acc[ALL] = {};
  const float *wf[F], *dr[R];
#pragma GCC unroll 4
  for (int f = 0; f < F; f++) wf[f] = w[f];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) dr[r] = d + r * ldd;
  for (long k = 0; k < K; k += VL) {
    vf wk[F];
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) wk[f] = load(wf[f] + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const vf x = load(dr[r] + k);
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) acc[f * R + r] += x * wk[f];
    }
  }
  alignas(64) float sums[ALL];
#pragma GCC unroll 4
  for (int i = 0; i < ALL; i += VL) store(sums + i, sums_of(acc + i));
  for (int f = 0; f < count; f++, c += ldc)
    store_quad(c, add ? load_quad(c) + load_quad(sums + f * R) : load_quad(sums + f * R));
}

// What the sums of a group of so many rows take for each feature.
REGRNN_INLINE long dots_apart(long rows) { return (rows + DOT_ROWS - 1) / DOT_ROWS * DOT_ROWS; }

// sums[g][kept i][row] of every group, dots_apart of its rows apart and s.K kept for each, for this part of the features.
inline void shared_dots(const Part& part, const Shared& s, long K, const float* w, Rows d, float* turned, float* sums) {
  constexpr long F = DOT_FEATURES, R = DOT_ROWS;
  alignas(64) static thread_local float place[DOT_BLOCK * DOT_DEPTH];
  float* const block = in_one_register(place);
  const long panels = (K + NR - 1) / NR, most = DOT_DEPTH / NR, parts = (panels + most - 1) / most;
  for (long p = 0; p < parts; p++) {
    const long k0 = panels * p / parts * NR, width = panels * (p + 1) / parts * NR - k0, n = std::min(width, K - k0);
    for (long f = part.begin; f < part.end; f++) std::fill(turned + f * DOT_DEPTH + n, turned + f * DOT_DEPTH + width, 0.f);
    turn(w + k0 * s.K + part.begin, s.K, n, part.end - part.begin, turned + part.begin * DOT_DEPTH, DOT_DEPTH);
    float* group_sums = sums;
    for (long g = 0; g < s.groups; g++) {
      const long begin = kept_from(s, g, part.begin), end = kept_from(s, g, part.end);
      const int32_t* list = s.kept + g * s.K;
      const long given = s.first[g + 1] - s.first[g], ldc = dots_apart(given);
      for (long b0 = 0; b0 < given; b0 += DOT_BLOCK) {
        const long rows = std::min(DOT_BLOCK, given - b0);
        // Next to each other, in whole cache lines: the rows of d can be far apart.
        for (long r = 0; r < rows; r++)
          for (long k = 0; k < n; k += NR) {
            const float* from = d.p + (s.first[g] + b0 + r) * d.ld + (k0 + k) / NR * d.chunk;
            float* to = block + r * width + k;
            store(to, load_some(from, n - k));
            store(to + VL, load_some(from + VL, n - k - VL));
          }
        for (long i = begin; i < end; i += F) {
          const float* features[F];  // those that are missing are computed like the last, and not read
          for (long f = 0; f < F; f++) features[f] = turned + list[std::min(i + f, end - 1)] * DOT_DEPTH;
          for (long r = 0; r < rows; r += R)
            tile_of_dots(width, features, block + r * width, width, static_cast<int>(std::min(F, end - i)),
                         group_sums + i * ldc + b0 + r, ldc, k0 > 0);
        }
      }
      group_sums += ldc * s.K;
    }
  }
}

// dx = D(d w) for w (K, s.K) and d (N, K). Columns that are struck become 0. Scratch: turned (s.K, DOT_DEPTH), and sums
// (N + groups DOT_ROWS) s.K.
inline void shared_input_gradient(int id, int threads, const Shared& s, long K, const float* w, Rows d,
                                  const float* row_factor, float factor, float* dx, float* turned, float* sums) {
  const Part part(s.K, id, threads);  // of the features
  shared_dots(part, s, K, w, d, turned, sums);
  for (long g = 0; g < s.groups; g++) {
    const long begin = kept_from(s, g, part.begin), end = kept_from(s, g, part.end);
    const long rows = s.first[g + 1] - s.first[g], ld = dots_apart(rows);
    for (long r = 0; r < rows; r++) {
      const long row = s.first[g] + r;
      const float f = row_factor == nullptr ? factor : factor * row_factor[row];
      float* out = dx + row * s.K;
      std::memset(out + part.begin, 0, (part.end - part.begin) * sizeof(float));
      for (long i = begin; i < end; i++) {
        const long k = s.kept[g * s.K + i];
        out[k] = K == 0 ? 0.f : f * s.mask[g * s.K + k] * sums[i * ld + r];
      }
    }
    sums += ld * s.K;
  }
}

// Rows list[r] of c[p], NR wide, += a[r][k] b[p][k], k < K, p < P.
template <int P, int R>
void tile_scattered(long K, const float* a, long lda, const float* b, long b_apart, float* c, long c_apart,
                    const int32_t* list) {
  constexpr int W = 2 * P;
  vf acc[R][W];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a + r * lda;
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) acc[r][w] = load(c + w / 2 * c_apart + list[r] * NR + w % 2 * VL);
  }
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    vf bk[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) bk[w] = load(b + w / 2 * b_apart + k * NR + w % 2 * VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
#pragma GCC unroll 4
      for (int w = 0; w < W; w++) multiply_add(acc[r][w], x, bk[w]);
    }
  };
  long k = 0;
  for (; k + 4 <= K; k += 4) step(k), step(k + 1), step(k + 2), step(k + 3);
  for (; k < K; k++) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) store(c + w / 2 * c_apart + list[r] * NR + w % 2 * VL, acc[r][w]);
}

template <int P>
void tiles_scattered(long count, long K, const float* a, long lda, const float* b, long b_apart, float* c, long c_apart,
                     const int32_t* list) {
  long i = 0;
  for (; i + 6 <= count; i += 6) tile_scattered<P, 6>(K, a + i * lda, lda, b, b_apart, c, c_apart, list + i);
  for (; i + 2 <= count; i += 2) tile_scattered<P, 2>(K, a + i * lda, lda, b, b_apart, c, c_apart, list + i);
  if (i < count) tile_scattered<P, 1>(K, a + i * lda, lda, b, b_apart, c, c_apart, list + i);
}

// c (columns, s.K) = (D(x)^T b)^T and the column sums of b, from x compacted and turned: the panels that this thread gets of
// `turns`. `own` is scratch of this thread.
template <class Source>
void shared_weight_gradient(Turns& turns, const Shared& s, long columns, const float* x, const Source& b,
                            const IntoColumns& sink, float* own) {
  constexpr long ROWS = 128;
  const long panels = (columns + NR - 1) / NR, apart = s.K * NR;
  float *values = own, *packed = own + PAIR * apart;
  const Places places(s, FEATURES_IN_CACHE, own);
  for (long p; (p = turns.next() * PAIR) < panels;) {
    const long wide = std::min<long>(PAIR, panels - p);
    const float* from[PAIR];
    for (long w = 0; w < wide; w++) {
      Sums sums;
      from[w] = b.pack(p + w, 0, s.N, packed + w * s.N * NR);
      sums.add(sink, from[w], 0, s.N);
      sums.give(sink, p + w);
    }
    std::memset(values, 0, wide * apart * sizeof(float));
    for (long i = 0; i < places.parts; i++)
      for (long g = 0; g < s.groups; g++) {
        const long begin = places.begin(g, i), count = places.end(g, i) - begin;
        const long group_rows = s.first[g + 1] - s.first[g];
        const int32_t* list = s.kept + g * s.K + begin;
        for (long r0 = 0; r0 < group_rows; r0 += ROWS) {
          const long rows = std::min(ROWS, group_rows - r0);
          const float *a = x + s.first[g] * s.K + begin * group_rows + r0, *row = from[0] + (s.first[g] + r0) * NR;
          if (wide == 2)
            tiles_scattered<PAIR>(count, rows, a, group_rows, row, from[PAIR - 1] - from[0], values, apart, list);
          else
            tiles_scattered<1>(count, rows, a, group_rows, row, 0, values, 0, list);
        }
      }
    for (long w = 0; w < wide; w++) sink(p + w, 0, s.K, values + w * apart);
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
