// Products with a matrix of which a dropout mask, shared by the rows of a group, has struck whole columns.
//
// What is struck is left out, step by step: in the input projection the rows of a packed panel, in the gradient at the
// input the outputs, and in the weights' gradient the rows that a group adds to. Sums run over the same k in the same
// order whatever the number of threads.
#pragma once

#include <algorithm>
#include <type_traits>

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

// Floats of packed panels that a thread passes all rows over before it goes on: they stay in a second-level cache.
constexpr long IN_CACHE = 48 * 1024;

// Features whose sums of panels side by side stay in a first-level cache while all groups add to them.
constexpr long FEATURES_IN_CACHE = 6 * 1024 / (PAIR * NR);

// Floats of scratch of its own that a thread needs for each of the products here.
REGRNN_INLINE long own_floats(const Shared& s) {
  return std::max(IN_CACHE, whole_lines(PAIR * (s.K + s.N) * NR + s.groups * (s.K / FEATURES_IN_CACHE + 2)));
}

// C = D(x) B, N x `columns`, from compacted x: the panels that this thread gets of `turns`, or all where there are none.
// `packed` is scratch of this thread.
template <class Source, class Sink>
void shared_multiply(Turns* turns, const Shared& s, long columns, const float* x, const Source& b, const Sink& sink,
                     float* packed) {
  constexpr long ROWS = 6 * TILE_ROWS, apart = ROWS * NR;
  alignas(64) float values[PAIR * apart];
  const long panels = (columns + NR - 1) / NR;
  const long one = s.K * NR, at_once = std::max<long>(PAIR, IN_CACHE / std::max(1L, one) / PAIR * PAIR);
  for (long i = 0, p0; (p0 = (turns == nullptr ? i : turns->next()) * at_once) < panels; i++) {
    const long p1 = std::min(p0 + at_once, panels);
    for (long p = p0; p < p1; p++) b.pack(p, 0, s.K, packed + (p - p0) * one);
    for (long g = 0; g < s.groups; g++)
      for (long r0 = s.first[g]; r0 < s.first[g + 1]; r0 += ROWS) {
        const long rows = std::min(ROWS, s.first[g + 1] - r0), tiles = tiles_of(rows);
        for (long p = p0, wide; p < p1; p += wide) {
          wide = std::min<long>(PAIR, p1 - p);
          for (long i = 0; i < tiles; i++) {
            const long r = tile_start(rows, tiles, i), height = tile_start(rows, tiles, i + 1) - r;
            const float *a = x + (r0 + r) * s.K, *panel = packed + (p - p0) * one;
            const int32_t* list = s.kept + g * s.K;
            if (wide == 2)
              tile_rows_indexed<PAIR>(static_cast<int>(height), s.count[g], a, s.K, panel, one, list, values + r * NR, apart);
            else
              tile_rows_indexed<1>(static_cast<int>(height), s.count[g], a, s.K, panel, 0, list, values + r * NR, 0);
          }
          for (long w = 0; w < wide; w++) sink(p + w, r0, rows, values + w * apart);
        }
      }
  }
}

// c[r][lane] (+)= sum over k < K of a[row r][k] b[k][lane] for R rows and W vectors of lanes, and one quad of them more
// if Q; rows of A by pointer.
template <int R, int W, bool Q>
void tile_listed(long K, const float* const* a, const float* b, float* c, long ldc, bool add) {
  vf acc[R][W > 0 ? W : 1];
  quad last[R];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a[r];
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) acc[r][w] = add ? load(c + r * ldc + w * VL) : vf{};
    if (Q) last[r] = add ? load_quad(c + r * ldc + W * VL) : quad{};
  }
  for (long k = 0; k < K; k++, b += W * VL + 4 * Q) {
    vf bk[W > 0 ? W : 1];
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) bk[w] = load(b + w * VL);
    quad bq = {};
    if (Q) bq = load_quad(b + W * VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
#pragma GCC unroll 3
      for (int w = 0; w < W; w++) acc[r][w] += x * bk[w];
      if (Q) last[r] += (row[r][k] - quad{}) * bq;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 3
    for (int w = 0; w < W; w++) store(c + r * ldc + w * VL, acc[r][w]);
    if (Q) store_quad(c + r * ldc + W * VL, last[r]);
  }
}

template <int W, bool Q>
void tiles_listed(long n, long K, const float* w, long ldw, const int32_t* list, const float* b, float* c, long ldc,
                  bool add) {
  constexpr int vectors = W + Q, R = vectors == 1 ? 8 : vectors == 2 ? 6 : vectors == 3 ? 4 : 3;
  const float* rows[R];
  for (; n > 0; n -= R, list += R, c += R * ldc) {
    for (int r = 0; r < R && r < n; r++) rows[r] = w + list[r] * ldw;
    if (n >= R) {
      tile_listed<R, W, Q>(K, rows, b, c, ldc, add);
      continue;
    }
    for (int r = 0; r + 2 <= n; r += 2) tile_listed<2, W, Q>(K, rows + r, b, c + r * ldc, ldc, add);
    if (n % 2 == 1) tile_listed<1, W, Q>(K, rows + n - 1, b, c + (n - 1) * ldc, ldc, add);
  }
}

// Rows [first, first + rows) of a matrix, columns [k0, k0 + n), as out[k][lane]; 0 in lanes that have no row.
inline void turn_rows(Rows d, long k0, long n, long first, long rows, long lanes, float* out) {
  if (rows < lanes) std::memset(out, 0, n * lanes * sizeof(float));
  for (long k = 0; k < n; k += NR)
    turn(d.p + first * d.ld + (k0 + k) / NR * d.chunk, d.ld, rows, std::min<long>(NR, n - k), out + k * lanes, lanes);
}

// Sums for `shared_input_gradient`, whose vectors run along the rows of a group.
struct Lanes {
  // What the rows of a group take: whole vectors, or, where that is enough, a quad behind them.
  static long padded(long rows) {
    const long over = rows % VL;
    return over == 0 ? rows : over <= 4 ? rows - over + 4 : rows - over + VL;
  }
  static void sum(const Part& part, const Shared& s, long K, const float* w, Rows d, float* turned, float* sums) {
    alignas(64) static thread_local float packed[KB * 4 * VL];
    for (long k0 = 0; k0 < K; k0 += KB) {
      const long n = std::min(KB, K - k0);
      turn(w + k0 * s.K + part.begin, s.K, n, part.end - part.begin, turned + part.begin * KB, KB);
      float* group_sums = sums;
      for (long g = 0; g < s.groups; g++) {
        const long begin = kept_from(s, g, part.begin), count = kept_from(s, g, part.end) - begin;
        const long rows = s.first[g + 1] - s.first[g], lanes = padded(rows);
        const int32_t* list = s.kept + g * s.K + begin;
        for (long lane = 0; lane < lanes;) {
          const long left = lanes - lane;
          const long width = left <= 3 * VL ? left : left <= 4 * VL ? 2 * VL : 3 * VL;
          turn_rows(d, k0, n, s.first[g] + lane, std::min(width, rows - lane), width, packed);
          float* c = group_sums + begin * lanes + lane;
          const bool add = k0 > 0, quad_too = width % VL != 0;
          switch (width / VL) {
            case 0: tiles_listed<0, true>(count, n, turned, KB, list, packed, c, lanes, add); break;
            case 1:
              if (quad_too)
                tiles_listed<1, true>(count, n, turned, KB, list, packed, c, lanes, add);
              else
                tiles_listed<1, false>(count, n, turned, KB, list, packed, c, lanes, add);
              break;
            case 2:
              if (quad_too)
                tiles_listed<2, true>(count, n, turned, KB, list, packed, c, lanes, add);
              else
                tiles_listed<2, false>(count, n, turned, KB, list, packed, c, lanes, add);
              break;
            default: tiles_listed<3, false>(count, n, turned, KB, list, packed, c, lanes, add);
          }
          lane += width;
        }
        group_sums += lanes * s.K;
      }
    }
  }
};

// out[i] = the sum of the elements of v[i].
REGRNN_INLINE vf sums_of(const vf* v) {
  vf now[VL];
#pragma GCC unroll 16
  for (int i = 0; i < VL; i++) now[i] = v[i];
#pragma GCC unroll 4
  for (int left = VL; left > 1; left /= 2)  // vectors, of which each holds parts of VL / left sums
#pragma GCC unroll 8
    for (int i = 0; i < left / 2; i++) now[i] = sums_of_neighbours(now[2 * i], now[2 * i + 1]);
  return now[0];
}

constexpr int DOT_FEATURES = 4, DOT_ROWS = 4;
constexpr long DOT_DEPTH = 384;  // of w that is turned at a time, in whole panels
constexpr long DOT_BLOCK = 32;   // rows of d whose part of that depth waits in a first-level cache

// c[f * ldc + r] (+)= sum over k < K of w[f][k] d[r * ldd + k]: vectors run along k, in whole panels. Of the features the
// first `count` are written.
inline void tile_of_dots(long K, const float* const* w, const float* d, long ldd, int count, float* c, long ldc, bool add) {
  constexpr int F = DOT_FEATURES, R = DOT_ROWS;
  vf acc[F * R] = {};
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
  static_assert(F * R % VL == 0, "sums are made of whole vectors of vectors");
  alignas(64) float sums[F * R];
#pragma GCC unroll 4
  for (int i = 0; i < F * R; i += VL) store(sums + i, sums_of(acc + i));
  for (int f = 0; f < count; f++, c += ldc)
    store_quad(c, add ? load_quad(c) + load_quad(sums + f * R) : load_quad(sums + f * R));
}

// The same with vectors along the depth of the products. That leaves no lane empty where they are long: of AVX-512's a batch
// of 20 would fill one and a quarter of a second; of AVX2's it fills two and a half, which costs less than these sums.
struct Dots {
  static long padded(long rows) { return (rows + DOT_ROWS - 1) / DOT_ROWS * DOT_ROWS; }
  static void sum(const Part& part, const Shared& s, long K, const float* w, Rows d, float* turned, float* sums) {
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
        const long given = s.first[g + 1] - s.first[g], ldc = padded(given);
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
};

// dx = D(d w) for w (K, s.K) and d (N, K). Columns that are struck become 0. Scratch: turned (s.K, DOT_DEPTH), and sums
// (N + groups VL) s.K.
inline void shared_input_gradient(int id, int threads, const Shared& s, long K, const float* w, Rows d,
                                  const float* row_factor, float factor, float* dx, float* turned, float* sums) {
  using Sums = std::conditional_t<VL == 16, Dots, Lanes>;
  const Part part(s.K, id, threads);  // of the features
  Sums::sum(part, s, K, w, d, turned, sums);
  for (long g = 0; g < s.groups; g++) {
    const long begin = kept_from(s, g, part.begin), end = kept_from(s, g, part.end);
    const long rows = s.first[g + 1] - s.first[g], ld = Sums::padded(rows);
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
      for (int w = 0; w < W; w++) acc[r][w] += x * bk[w];
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
  // Where in its list a group's features of each part begin.
  int32_t* const starts = reinterpret_cast<int32_t*>(packed + PAIR * s.N * NR);
  const long parts = (s.K + FEATURES_IN_CACHE - 1) / FEATURES_IN_CACHE;
  for (long g = 0; g < s.groups; g++)
    for (long i = 0; i <= parts; i++)
      starts[g * (parts + 1) + i] = static_cast<int32_t>(kept_from(s, g, i * FEATURES_IN_CACHE));
  for (long p; (p = turns.next() * PAIR) < panels;) {
    const long wide = std::min<long>(PAIR, panels - p);
    const float* from[PAIR];
    for (long w = 0; w < wide; w++) {
      Sums<IntoColumns> sums;
      from[w] = b.pack(p + w, 0, s.N, packed + w * s.N * NR);
      sums.add(sink, from[w], 0, s.N);
      sums.give(sink, p + w, false);
    }
    std::memset(values, 0, wide * apart * sizeof(float));
    for (long i = 0; i < parts; i++)
      for (long g = 0; g < s.groups; g++) {
        const int32_t* start = starts + g * (parts + 1) + i;
        const long begin = start[0], count = start[1] - begin;
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
