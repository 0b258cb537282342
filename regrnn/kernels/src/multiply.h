// The product of matrices in float32, and of few rows with panels that lie ready. multiply_rounded.h has the same names.
#pragma once

#include <algorithm>
#include <type_traits>

#include "gemm.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long BLOCK_TILES = 80;  // tiles of rows whose panel of C is held at a time
constexpr long A_IN_CACHE = 256 * 1024;  // floats of A that are worked on at a time where K is large
constexpr long BLOCK_ROWS = BLOCK_TILES * TILE_ROWS;

constexpr long STEP_ROWS = 36;  // rows of a time step whose products are held at a time

// What the rows of A became for a product, for the next product with the same rows: nothing, they are multiplied as they lie.
struct Held {};

constexpr long DEPTH = KB / PAIR;  // rows of panels side by side that are worked on at a time

// values[p][row][NR] (+)= the product of tiles [first, last) of A with P panels of B from `panel` on, over k in [from, to)
// alone; added to where `from` is not 0. Of each panel the first V vectors. The panels' parts lie `apart` floats from each
// other. What is packed next, of panels from `coming` on in the end, and where the sums go, if they are the last ones, is asked
// for meanwhile, as all of it comes from memory.
template <int P, int V, class Source, class Sink>
void strip(long M, long first, long last, long from, long to, Rows a, const Source& b, long panel, long coming,
           const Sink& sink, bool last_ones, float* values, long apart) {
  alignas(64) static thread_local float packed[P * DEPTH * NR];
  const long tiles = tiles_of(M), row0 = tile_start(M, tiles, first);
  for (long k0 = from; k0 < to; k0 += DEPTH) {
    const long n = std::min(DEPTH, to - k0);
    const float* bk[P];
    for (int p = 0; p < P; p++) bk[p] = b.pack(panel + p, k0, n, packed + p * DEPTH * NR);
    const float* ak = a.p + k0 / NR * a.chunk;
    const bool end = k0 + n == to;
    const long next_panel = end ? coming : panel, next_k = end ? from : k0 + n, next_n = std::min(DEPTH, to - next_k);
    for (long i = first; i < last; i++) {
      if (next_panel >= 0) b.ask(next_panel, P, next_k, next_n, i - first, last - first);
      const long r = tile_start(M, tiles, i), count = tile_start(M, tiles, i + 1) - r;
      tile_rows<P, Ahead::rows, V>(static_cast<int>(count), n, ak + r * a.ld, a.ld, a.chunk, bk[0], bk[P - 1] - bk[0],
                                   values + (r - row0) * NR, apart, k0 > 0, nullptr);
      if (end && last_ones) sink.ask(panel, P, r, count);
    }
  }
}

// Calls visit(1), or visit(2) of vectors that have to be computed of the panel: of those that a sink has to have or that are not
// beyond the last column.
template <class Sink, int P, class Visit>
void by_width(long columns, const Visit& visit) {
  if (P == 1 && Sink::takes_half && columns <= VL)
    visit(std::integral_constant<int, 1>());
  else
    visit(std::integral_constant<int, 2>());
}

// Calls visit(panel, P, first, last, coming) for all of a thread's part of the panels: P of them side by side, all of their
// tiles of rows, or some of one's; it goes on with the panels from `coming` on, or, where that is below 0, no more.
template <class Visit>
void each_strip(int id, int threads, long panels, long tiles, const Visit& visit) {
  const Part part(panels * tiles, id, threads);
  for (long at = part.begin; at < part.end;) {
    const long panel = at / tiles, first = at % tiles;
    const bool pair = PAIR == 2 && first == 0 && part.end - at >= 2 * tiles;
    const long last = std::min(first + part.end - at, tiles);
    at += pair ? 2 * tiles : last - first;
    // Asked for in pairs, so the last panel alone is not.
    const long coming = at < part.end && at / tiles + PAIR <= panels ? at / tiles : -1;
    if (pair)
      visit(panel, std::integral_constant<int, PAIR>(), 0L, tiles, coming);
    else
      visit(panel, std::integral_constant<int, 1>(), first, last, coming);
  }
}

constexpr long STRIPS = 8;  // for each thread, at least: where there are fewer, parts of the same size are the better ones

// The same for what a thread gets of `turns`: P panels at a time, all of their tiles of rows.
template <class Visit>
void each_strip(Turns& turns, int id, int threads, long panels, long tiles, const Visit& visit) {
  const long strips = (panels + PAIR - 1) / PAIR;
  if (strips < STRIPS * threads) return each_strip(id, threads, panels, tiles, visit);
  for (long i; (i = turns.next()) < strips;) {
    // Another thread may be first, and then asks for the wrong one, but as often it is the next.
    const long after = turns.coming() * PAIR, coming = after + PAIR <= panels ? after : -1;
    if ((i + 1) * PAIR <= panels)
      visit(i * PAIR, std::integral_constant<int, PAIR>(), 0L, tiles, coming);
    else
      visit(i * PAIR, std::integral_constant<int, 1>(), 0L, tiles, coming);
  }
}

// C = A B: this thread's part, or what it gets of `turns`. The sink is called as sink(panel, first_row, rows, values) with
// values[rows][NR] for every part of C.
template <class Source, class Sink>
void multiply(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink, Held&,
              Turns* turns = nullptr) {
  alignas(64) static thread_local float values[PAIR * BLOCK_ROWS * NR];
  constexpr long apart = BLOCK_ROWS * NR;
  const long tiles = tiles_of(M);
  const long panels = (N + NR - 1) / NR;
  const auto visit = [&](long panel, auto P, long begin, long end, long coming) {
    for (long first = begin; first < end; first += BLOCK_TILES) {
      const long last = std::min(first + BLOCK_TILES, end);
      const long row0 = tile_start(M, tiles, first), rows = tile_start(M, tiles, last) - row0;
      by_width<Sink, P>(N - panel * NR, [&](auto V) {
        strip<P, V>(M, first, last, 0, K, a, b, panel, last < end ? panel : coming, sink, true, values, apart);
      });
      for (int p = 0; p < P; p++) {
        if (K == 0) std::memset(values + p * apart, 0, rows * NR * sizeof(float));
        sink(panel + p, row0, rows, values + p * apart);
      }
    }
  };
  if (turns == nullptr)
    each_strip(id, threads, panels, tiles, visit);
  else
    each_strip(*turns, id, threads, panels, tiles, visit);
}

// The same for large K, whose columns of A do not fit in a cache: the product is made for `deep` of them at a time, so that
// A is read from memory once. The sums of C wait in `waiting`, (panels, M, NR).
template <class Source, class Sink>
void multiply_deep(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink,
                   float* waiting, Held&) {
  const long tiles = tiles_of(M), deep = std::max(KB, A_IN_CACHE / std::max(1L, M) / KB * KB);
  for (long from = 0; from < K; from += deep) {
    const long to = std::min(from + deep, K);
    each_strip(id, threads, (N + NR - 1) / NR, tiles, [&](long panel, auto P, long first, long last, long coming) {
      const long row0 = tile_start(M, tiles, first), rows = tile_start(M, tiles, last) - row0;
      float* values = waiting + (panel * M + row0) * NR;
      by_width<Sink, P>(N - panel * NR, [&](auto V) {
        strip<P, V>(M, first, last, from, to, a, b, panel, coming, sink, to == K, values, M * NR);
      });
      for (int p = 0; to == K && p < P; p++) sink(panel + p, row0, rows, values + p * M * NR);
    });
  }
}

// Floats that a panel of K rows takes, and that panel of a source, from row k0 on.
REGRNN_INLINE long panel_floats(long K) { return K * NR; }

template <class Source>
void pack_panel(const Source& b, long panel, long k0, long K, float* out) {
  b.pack(panel, k0, K, out);
}

// Products of P panels, K rows each and `apart` floats from each other, with `rows` rows of a, over n of the K rows; added to
// what is in out[p][rows][NR] if `add`. Meanwhile the lines at `next` are fetched.
template <int P, int V>
void some_products(const float* panel, long apart, long n, long rows, const float* a, long lda, float* out, bool add,
                   const float* next) {
  const long tiles = tiles_of(rows);
  for (long i = 0; i < tiles; i++) {
    const long r = tile_start(rows, tiles, i);
    const int count = static_cast<int>(tile_start(rows, tiles, i + 1) - r);
    // Four tiles can share what is to be asked for. Fewer each ask for as much as they work on, though that is some of it twice,
    // and with AVX-512, where a multiply-add waits longer for memory, that is the faster way for any number.
    const auto product = [&](auto ahead) {
      tile_rows<P, ahead, V>(count, n, a + r * lda, lda, NR, panel, apart, out + r * NR, rows * NR, add,
                             next + n * NR * i / tiles);
    };
    if (VL < 16 && tiles >= 4)
      product(std::integral_constant<Ahead, Ahead::quarter>());
    else
      product(std::integral_constant<Ahead, Ahead::panel>());
  }
}

// Products of `rows` rows of a, K wide, with Q panels that lie one after the other from `block`, into
// out[q][rows][NR]; of each its first V vectors. While one piece of a panel is worked on, the lines of the next are fetched;
// `after` comes last.
template <int V>
void products_of(const float* block, int Q, long K, long rows, const float* a, long lda, float* out, const float* after) {
  for (long k0 = 0; k0 < K; k0 += DEPTH) {
    const long n = std::min(DEPTH, K - k0);
    for (int q = 0, wide; q < Q; q += wide) {
      wide = std::min(PAIR, Q - q);
      const float* panel = block + (q * K + k0) * NR;
      const float* next = q + wide < Q ? panel + wide * K * NR : k0 + n < K ? block + (k0 + n) * NR : after;
      float* c = out + q * rows * NR;
      if (wide == 2)
        some_products<PAIR, V>(panel, K * NR, n, rows, a + k0, lda, c, k0 > 0, next);
      else
        some_products<1, V>(panel, 0, n, rows, a + k0, lda, c, k0 > 0, next);
    }
  }
}

// The same of panels with so many columns each, or more than NR.
inline void products(Held&, const float* block, int Q, long K, long rows, const float* a, long lda, float* out,
                     const float* after, long columns) {
  if (columns <= VL)
    products_of<1>(block, Q, K, rows, a, lda, out, after);
  else
    products_of<2>(block, Q, K, rows, a, lda, out, after);
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
