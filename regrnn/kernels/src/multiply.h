// The product of matrices in float32, and of few rows with panels that lie ready. multiply_rounded.h has the same names.
#pragma once

#include <algorithm>

#include "gemm.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long BLOCK_TILES = 80;  // tiles of rows whose panel of C is held at a time
constexpr long A_IN_CACHE = 256 * 1024;  // floats of A that are worked on at a time where K is large
constexpr long BLOCK_ROWS = BLOCK_TILES * TILE_ROWS;

constexpr long STEP_ROWS = 36;  // rows of a time step whose products are held at a time

// What the rows of A became for a product, for the next product with the same rows: nothing, they are multiplied as they lie.
struct Held {};

// C = A B. The sink is called as sink(panel, first_row, rows, values) with values[rows][NR] for every part of C, and as
// sink.sums(panel, values[NR], add) with the weighted column sums of B, sum over k of weight[k] B[k][j], if it wants them:
// of all k, or of some and then of others, to be added.
template <class Source, class Sink>
void multiply(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink, Held&) {
  alignas(64) static thread_local float values[BLOCK_ROWS * NR];
  alignas(64) static thread_local float packed[KB * NR];
  const long panels = (N + NR - 1) / NR, tiles = tiles_of(M);
  const Part part(panels * tiles, id, threads);
  for (long at = part.begin; at < part.end;) {
    const long panel = at / tiles, first = at % tiles;
    long last = first + (part.end - at) < tiles ? first + (part.end - at) : tiles;
    if (last - first > BLOCK_TILES) last = first + BLOCK_TILES;
    const long row0 = tile_start(M, tiles, first), rows = tile_start(M, tiles, last) - row0;
    Sums<Sink> sums;
    for (long k0 = 0; k0 < K; k0 += KB) {
      const long n = K - k0 < KB ? K - k0 : KB;
      const float* bk = b.pack(panel, k0, n, packed);
      if (Sink::wants_sums && first == 0) sums.add(sink, bk, k0, n);
      const float* ak = a.p + k0 / NR * a.chunk;
      for (long i = first; i < last; i++) {
        const long r = tile_start(M, tiles, i), count = tile_start(M, tiles, i + 1) - r;
        tile_rows<Ahead::rows>(static_cast<int>(count), n, ak + r * a.ld, a.ld, a.chunk, bk, values + (r - row0) * NR,
                               k0 > 0, nullptr);
      }
    }
    if (K == 0) std::memset(values, 0, rows * NR * sizeof(float));
    sink(panel, row0, rows, values);
    if (Sink::wants_sums && first == 0) sums.give(sink, panel, false);
    at += last - first;
  }
}

// The same for large K, whose columns of A do not fit in a cache: the product is made for `deep` of them at a time, so that
// A is read from memory once. The sums of C wait in `waiting`, (panels, M, NR).
template <class Source, class Sink>
void multiply_deep(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink,
                   float* waiting, Held&) {
  alignas(64) static thread_local float packed[KB * NR];
  const long panels = (N + NR - 1) / NR, tiles = tiles_of(M);
  const long deep = std::max(KB, A_IN_CACHE / std::max(1L, M) / KB * KB);
  const Part part(panels * tiles, id, threads);
  for (long from = 0; from < K; from += deep) {
    const long to = std::min(from + deep, K);
    for (long at = part.begin; at < part.end;) {
      const long panel = at / tiles, first = at % tiles;
      const long last = std::min(first + (part.end - at), tiles);
      const long row0 = tile_start(M, tiles, first), rows = tile_start(M, tiles, last) - row0;
      float* values = waiting + (panel * M + row0) * NR;
      Sums<Sink> sums;
      for (long k0 = from; k0 < to; k0 += KB) {
        const long n = std::min(KB, to - k0);
        const float* bk = b.pack(panel, k0, n, packed);
        if (Sink::wants_sums && first == 0) sums.add(sink, bk, k0, n);
        const float* ak = a.p + k0 / NR * a.chunk;
        for (long i = first; i < last; i++) {
          const long r = tile_start(M, tiles, i), count = tile_start(M, tiles, i + 1) - r;
          tile_rows<Ahead::rows>(static_cast<int>(count), n, ak + r * a.ld, a.ld, a.chunk, bk, values + (r - row0) * NR,
                                 k0 > 0, nullptr);
        }
      }
      if (Sink::wants_sums && first == 0) sums.give(sink, panel, from > 0);
      if (to == K) sink(panel, row0, rows, values);
      at += last - first;
    }
  }
}

// Floats that a panel of K rows takes, and that panel of a source, from row k0 on.
REGRNN_INLINE long panel_floats(long K) { return K * NR; }

template <class Source>
void pack_panel(const Source& b, long panel, long k0, long K, float* out) {
  b.pack(panel, k0, K, out);
}

// Products of `rows` rows of a, K wide, with Q panels that lie one after the other from `block`, into
// out[q][rows][NR]. While one piece of a panel is worked on, the lines of the next are fetched; `after` comes last.
inline void products(Held&, const float* block, int Q, long K, long rows, const float* a, long lda, float* out,
                     const float* after) {
  const long tiles = tiles_of(rows);
  for (long k0 = 0; k0 < K; k0 += KB) {
    const long n = K - k0 < KB ? K - k0 : KB;
    for (int q = 0; q < Q; q++) {
      const float* panel = block + (q * K + k0) * NR;
      const float* next = q + 1 < Q ? panel + K * NR : k0 + n < K ? block + (k0 + n) * NR : after;
      for (long i = 0; i < tiles; i++) {
        const long r = tile_start(rows, tiles, i);
        const int count = static_cast<int>(tile_start(rows, tiles, i + 1) - r);
        float* c = out + (q * rows + r) * NR;
        tile_rows<Ahead::panel>(count, n, a + r * lda + k0, lda, NR, panel, c, k0 > 0, next + n * NR * i / tiles);
      }
    }
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
