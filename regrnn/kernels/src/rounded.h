// Products of factors rounded to bfloat16, with sums in float32: what the libraries compiled with REGRNN_BFLOAT16 multiply
// with in the place of tile.h.
//
// Both factors lie in squares of 32 k: of A, 16 rows of 32 k; of B, twice 16 columns, of which two values of k lie together. So
// the tiles of AMX take them, and so does the dot product of pairs of AVX-512. Rounding is to the nearest, to even;
// zeros fill the squares up. Each element of C is the sum over k in one order, whatever the number of threads.
#pragma once

#include <immintrin.h>

#include "tile.h"

namespace regrnn {
namespace REGRNN_ISA {

typedef uint16_t bf16;

constexpr long SIDE = 32;                 // of a square in k, and the rows that are worked on at a time
constexpr long SQUARE = 16 * SIDE;        // elements of a square of A, and of each half of B's

static_assert(VL == 16 && NR == SIDE && KB % SIDE == 0, "the squares are made for vectors of 16 floats");

REGRNN_INLINE long squares(long n) { return (n + SIDE - 1) / SIDE; }

REGRNN_INLINE __m512i round_pair(vf low, vf high) {
  return reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
}

// Columns [k0, k0 + n) of `rows` rows of A from `first` on: out[row / 16][k / 32][16][32], whole pairs of squares of rows.
// Its rows begin at p + row * ld, and every NR of their elements `chunk` after the last ones.
inline void round_rows(const float* p, long ld, long chunk, long first, long rows, long k0, long n, bf16* out) {
  const long across = squares(n);
  for (long r = 0; r < squares(rows) * SIDE; r++) {
    bf16* to = out + r / 16 * across * SQUARE + r % 16 * SIDE;
    const float* from = p + (first + r) * ld + k0 / NR * chunk;
    for (long k = 0; k < n; k += SIDE, from += chunk, to += SQUARE) {
      if (r < rows)
        _mm512_storeu_si512(to, round_pair(load_some(from, n - k), load_some(from + VL, n - k - VL)));
      else
        _mm512_storeu_si512(to, _mm512_setzero_si512());
    }
  }
}

// n rows of a panel of B: out[k / 32][2][16 pairs of k][16][2].
inline void round_panel(const float* b, long n, bf16* out) {
  alignas(64) static const uint16_t in_pairs[SIDE] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(in_pairs);
  for (long k = 0; k < squares(n) * SIDE; k += 2) {
    bf16* to = out + k / SIDE * 2 * SQUARE + k % SIDE / 2 * SIDE;
    for (int half = 0; half < 2; half++) {
      const float* from = b + k * NR + half * VL;
      const vf low = k < n ? load(from) : vf{}, high = k + 1 < n ? load(from + NR) : vf{};
      _mm512_storeu_si512(to + half * SQUARE, _mm512_permutexvar_epi16(order, round_pair(low, high)));
    }
  }
}

#if REGRNN_BFLOAT16 == 2  // AMX

// The tiles' shapes, for as long as it lives.
struct Tiles {
  Tiles() {
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    asm volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// c[r][j] (+)= A B over `depth` squares, for 16 rows or, if `both`, 32; `below` is where the second squares of A begin.
inline void whole_block(long depth, const bf16* a, long below, bool both, const bf16* b, float* c, bool add) {
  asm volatile("" : : : "memory");  // the intrinsics do not say that they read memory
  if (add) {
    _tile_loadd(0, c, NR * 4);
    _tile_loadd(1, c + VL, NR * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  if (add && both) {
    _tile_loadd(2, c + 16 * NR, NR * 4);
    _tile_loadd(3, c + 16 * NR + VL, NR * 4);
  } else {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long k = 0; k < depth; k++, a += SQUARE, b += 2 * SQUARE) {
    _tile_loadd(4, a, SIDE * 2);
    _tile_loadd(6, b, SIDE * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + SQUARE, SIDE * 2);
    _tile_dpbf16ps(1, 4, 7);
    if (!both) continue;
    _tile_loadd(5, a + below, SIDE * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, NR * 4);
  _tile_stored(1, c + VL, NR * 4);
  if (both) {
    _tile_stored(2, c + 16 * NR, NR * 4);
    _tile_stored(3, c + 16 * NR + VL, NR * 4);
  }
  asm volatile("" : : : "memory");
}

#else  // pairs of AVX-512

struct Tiles {
  Tiles() {}
};

inline void whole_block(long depth, const bf16* a, long below, bool both, const bf16* b, float* c, bool add) {
  constexpr int R = 8;
  for (int r0 = 0; r0 < (both ? 32 : 16); r0 += R, c += R * NR) {
    const bf16* from = a + r0 / 16 * below + r0 % 16 * SIDE;
    const bf16* panel = b;
    __m512 sums[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < 2; v++) sums[r][v] = add ? _mm512_loadu_ps(c + r * NR + v * VL) : _mm512_setzero_ps();
    for (long k = 0; k < depth; k++, from += SQUARE, panel += 2 * SQUARE) {
#pragma GCC unroll 2
      for (int pair = 0; pair < 16; pair++) {
        const __m512bh b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + pair * SIDE));
        const __m512bh b1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + SQUARE + pair * SIDE));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          int32_t both_k;
          std::memcpy(&both_k, from + r * SIDE + pair * 2, 4);
          const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both_k));
          sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, b0);
          sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, b1);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < 2; v++) _mm512_storeu_ps(c + r * NR + v * VL, sums[r][v]);
  }
}

#endif

// The same for any number of rows up to 32: c is written as far as they go.
inline void block(long depth, const bf16* a, long below, long rows, const bf16* b, float* c, bool add) {
  const bool both = rows > 16;
  if (rows == 16 || rows == 32) return whole_block(depth, a, below, both, b, c, add);
  alignas(64) float all[SIDE * NR];
  if (add) {
    std::memcpy(all, c, rows * NR * sizeof(float));
    std::memset(all + rows * NR, 0, (SIDE - rows) * NR * sizeof(float));
  }
  whole_block(depth, a, below, both, b, all, add);
  std::memcpy(c, all, rows * NR * sizeof(float));
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
