// The micro-kernel: R rows of A times one panel of B, NR columns wide, kept in registers.
#pragma once

#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr int TILE_ROWS = 6;  // the most rows that fit in the registers of AVX2
constexpr long KB = 256;      // rows of a panel worked on at a time: 16 KiB under AVX2, half of a first-level cache

// Which cache lines are asked for while a tile is computed: none, those of the next rows of A, or those at `next`, as many as
// are worked on or a quarter of them, to the second-level cache, since the first is full of that.
enum class Ahead { nothing, rows, panel, quarter };

// Panels that a tile passes over side by side. Where there are registers for the sums of two, each element of A that is
// loaded serves both: fewer loads for a multiply-add, which counts most where another program runs on the same core.
constexpr int PAIR = VL == 16 ? 2 : 1;

// c[p][r][j] (+)= sum over k < K of a[r][k] b[p][k][j], p < P, r < R, j < V VL: of whole panels (V is 2), or of their first
// vectors, where the others are beyond the last column.
//
// Row r of A begins at a + r * lda; every NR of its elements lie together, and such chunks lie `chunk` floats apart
// (NR where rows are contiguous). Row k of panel p of B begins at b + p * b_apart + k * NR, row r of its part of C at
// c + p * c_apart + r * NR. What is asked for at `next` lies in P places b_apart from each other too.
template <int P, int V, int R, Ahead ahead>
void tile(long K, const float* a, long lda, long chunk, const float* b, long b_apart, float* c, long c_apart, bool add,
          const float* next) {
  constexpr int W = V * P;  // vectors in a row
  vf acc[R][W];
  const float* panel[P];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++) panel[p] = b + p * b_apart;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) acc[r][w] = add ? load(c + w / V * c_apart + r * NR + w % V * VL) : vf{};
  // The rows between these lie lda or twice that behind one, which an instruction adds by itself: few numbers to move on.
  const float *low = a, *high = a + 3 * lda;
  const auto row = [&](int r) REGRNN_LAMBDA_INLINE { return r < 3 ? low + r * lda : high + (r - 3) * lda; };
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    vf bk[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) bk[w] = load(panel[w / V] + k * NR + w % V * VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row(r)[k]);
#pragma GCC unroll 4
      for (int w = 0; w < W; w++) multiply_add(acc[r][w], x, bk[w]);
    }
  };
  long left = K;
  for (; left >= NR; left -= NR) {
    // Few steps, from addresses that move on: of many, the compiler keeps the addresses in memory.
    constexpr int STEPS = 4;
    for (int k = 0; k < NR; k += STEPS) {
      if (ahead >= Ahead::panel) {
        constexpr int ASKED = ahead == Ahead::panel ? STEPS * NR : STEPS * NR / 4;
#pragma GCC unroll 2
        for (int p = 0; p < P; p++)
#pragma GCC unroll 8
          for (int j = 0; j < ASKED; j += 16) fetch_later(next + p * b_apart + j);
        next += ASKED;
      }
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) panel[p] = in_one_register(panel[p]);
      low = in_one_register(low), high = in_one_register(high);
      step(0), step(1), step(2), step(3);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) panel[p] += STEPS * NR;
      low += STEPS, high += STEPS;
    }
#pragma GCC unroll 8
    for (int r = 0; ahead == Ahead::rows && r < R; r++)
#pragma GCC unroll 2
      for (int j = 0; j < NR; j += 16) fetch(row(r) - NR + j + R * lda);
    low += chunk - NR, high += chunk - NR;
  }
  for (long k = 0; k < left; k++) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) store(c + w / V * c_apart + r * NR + w % V * VL, acc[r][w]);
}

// The same with rows of A contiguous and row index[k] of B in the place of row k. The next R rows of A are asked for.
template <int P, int R>
void tile_indexed(long K, const float* a, long lda, const float* b, long b_apart, const int32_t* index, float* c,
                  long c_apart, bool add) {
  constexpr int W = 2 * P;
  vf acc[R][W];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a + r * lda;
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) acc[r][w] = add ? load(c + w / 2 * c_apart + r * NR + w % 2 * VL) : vf{};
  }
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    const float* row_of_b = b + static_cast<long>(index[k]) * NR;
    vf bk[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) bk[w] = load(row_of_b + w / 2 * b_apart + w % 2 * VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
#pragma GCC unroll 4
      for (int w = 0; w < W; w++) multiply_add(acc[r][w], x, bk[w]);
    }
  };
  long k = 0;
  for (; k + 16 <= K; k += 16) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) fetch(row[r] + R * lda + k);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) step(k + i), step(k + i + 1), step(k + i + 2), step(k + i + 3);
  }
  for (; k < K; k++) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int w = 0; w < W; w++) store(c + w / 2 * c_apart + r * NR + w % 2 * VL, acc[r][w]);
}

template <int P, Ahead ahead, int V = 2>
REGRNN_INLINE void tile_rows(int rows, long K, const float* a, long lda, long chunk, const float* b, long b_apart,
                             float* c, long c_apart, bool add, const float* next) {
  switch (rows) {
    case 1: return tile<P, V, 1, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
    case 2: return tile<P, V, 2, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
    case 3: return tile<P, V, 3, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
    case 4: return tile<P, V, 4, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
    case 5: return tile<P, V, 5, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
    default: return tile<P, V, 6, ahead>(K, a, lda, chunk, b, b_apart, c, c_apart, add, next);
  }
}

template <int P>
REGRNN_INLINE void tile_rows_indexed(int rows, long K, const float* a, long lda, const float* b, long b_apart,
                                     const int32_t* index, float* c, long c_apart, bool add) {
  switch (rows) {
    case 1: return tile_indexed<P, 1>(K, a, lda, b, b_apart, index, c, c_apart, add);
    case 2: return tile_indexed<P, 2>(K, a, lda, b, b_apart, index, c, c_apart, add);
    case 3: return tile_indexed<P, 3>(K, a, lda, b, b_apart, index, c, c_apart, add);
    case 4: return tile_indexed<P, 4>(K, a, lda, b, b_apart, index, c, c_apart, add);
    case 5: return tile_indexed<P, 5>(K, a, lda, b, b_apart, index, c, c_apart, add);
    default: return tile_indexed<P, 6>(K, a, lda, b, b_apart, index, c, c_apart, add);
  }
}

// n rows in tiles of nearly equal size: the number of tiles, and the first row of tile i.
REGRNN_INLINE long tiles_of(long n) { return (n + TILE_ROWS - 1) / TILE_ROWS; }
REGRNN_INLINE long tile_start(long n, long tiles, long i) { return n * i / tiles; }

}  // namespace REGRNN_ISA
}  // namespace regrnn
