// The micro-kernel: R rows of A times one panel of B, NR columns wide, kept in registers.
#pragma once

#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr int TILE_ROWS = 6;  // the most rows that fit in the registers of AVX2
constexpr long KB = 256;      // rows of a panel worked on at a time: 16 KiB under AVX2, half of a first-level cache

// Which cache lines are asked for while a tile is computed: none, those of the next rows of A, or those at `next`.
enum class Ahead { nothing, rows, panel };

// c[r][j] (+)= sum over k < K of a[r][k] b[k][j], r < R, j < NR.
//
// Row r of A begins at a + r * lda; every NR of its elements lie together, and such chunks lie `chunk` floats apart
// (NR where rows are contiguous). Row k of B begins at b + k * NR, row r of C at c + r * NR.
template <int R, Ahead ahead>
void tile(long K, const float* a, long lda, long chunk, const float* b, float* c, bool add, const float* next) {
  vf acc[R][2];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    row[r] = a + r * lda;
    acc[r][0] = add ? load(c + r * NR) : vf{};
    acc[r][1] = add ? load(c + r * NR + VL) : vf{};
  }
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    const vf b0 = load(b + k * NR), b1 = load(b + k * NR + VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  };
  long left = K;
  for (; left >= NR; left -= NR) {
#pragma GCC unroll 8
    for (int k = 0; k < NR; k += 4) {
      if (ahead == Ahead::panel) {
        __builtin_prefetch(next);
        next += 16;
      }
      step(k), step(k + 1), step(k + 2), step(k + 3);
    }
    b += NR * NR;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      if (ahead == Ahead::rows) __builtin_prefetch(row[r] + R * lda);
      row[r] += chunk;
    }
  }
  for (long k = 0; k < left; k++) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    store(c + r * NR, acc[r][0]);
    store(c + r * NR + VL, acc[r][1]);
  }
}

// The same with rows of A contiguous, row index[k] of B in the place of row k, and nothing added to. The next R rows of
// A are asked for.
template <int R>
void tile_indexed(long K, const float* a, long lda, const float* b, const int32_t* index, float* c) {
  vf acc[R][2];
  const float* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    acc[r][0] = acc[r][1] = vf{};
    row[r] = a + r * lda;
  }
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    const float* bk = b + static_cast<long>(index[k]) * NR;
    const vf b0 = load(bk), b1 = load(bk + VL);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = splat(row[r][k]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  };
  long k = 0;
  for (; k + 16 <= K; k += 16) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) __builtin_prefetch(row[r] + R * lda + k);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) step(k + i), step(k + i + 1), step(k + i + 2), step(k + i + 3);
  }
  for (; k < K; k++) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    store(c + r * NR, acc[r][0]);
    store(c + r * NR + VL, acc[r][1]);
  }
}

template <Ahead ahead>
REGRNN_INLINE void tile_rows(int rows, long K, const float* a, long lda, long chunk, const float* b, float* c, bool add,
                             const float* next) {
  switch (rows) {
    case 1: return tile<1, ahead>(K, a, lda, chunk, b, c, add, next);
    case 2: return tile<2, ahead>(K, a, lda, chunk, b, c, add, next);
    case 3: return tile<3, ahead>(K, a, lda, chunk, b, c, add, next);
    case 4: return tile<4, ahead>(K, a, lda, chunk, b, c, add, next);
    case 5: return tile<5, ahead>(K, a, lda, chunk, b, c, add, next);
    default: return tile<6, ahead>(K, a, lda, chunk, b, c, add, next);
  }
}

REGRNN_INLINE void tile_rows_indexed(int rows, long K, const float* a, long lda, const float* b, const int32_t* index,
                                     float* c) {
  switch (rows) {
    case 1: return tile_indexed<1>(K, a, lda, b, index, c);
    case 2: return tile_indexed<2>(K, a, lda, b, index, c);
    case 3: return tile_indexed<3>(K, a, lda, b, index, c);
    case 4: return tile_indexed<4>(K, a, lda, b, index, c);
    case 5: return tile_indexed<5>(K, a, lda, b, index, c);
    default: return tile_indexed<6>(K, a, lda, b, index, c);
  }
}

// n rows in tiles of nearly equal size: the number of tiles, and the first row of tile i.
REGRNN_INLINE long tiles_of(long n) { return (n + TILE_ROWS - 1) / TILE_ROWS; }
REGRNN_INLINE long tile_start(long n, long tiles, long i) { return n * i / tiles; }

}  // namespace REGRNN_ISA
}  // namespace regrnn
