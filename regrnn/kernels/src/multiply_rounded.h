// The products of multiply.h with factors rounded to bfloat16: the same names, the same meaning.
//
// A thread rounds the rows of A once and passes all of its panels of B over them, rounding each when it is packed.
#pragma once

#include <algorithm>

#include "gemm.h"
#include "rounded.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long MOST_HELD = 512 * 1024;  // rounded elements of A: 1 MiB, for a second-level cache
constexpr long MOST_DEPTH = 8 * 1024;   // of a panel of B that is rounded at a time
constexpr long BLOCK_ROWS = 24 * SIDE;  // whose panel of C is held at a time
constexpr long STEP_ROWS = SIDE;        // rows of a time step whose products are held at a time

static_assert(MOST_HELD >= SIDE * MOST_DEPTH, "one square of rows fits");

// Rows of A, rounded, for product after product with the same rows. A thread has one such place: what lies there is known
// until the next Held is made, at the latest when the numbers change.
class Held {
 public:
  Held() { now_ = {}; }
  const bf16* rows(Rows a, long first, long rows, long k0, long n) {
    const What what{a.p, first, rows, k0, n};
    if (!(what == now_)) {
      round_rows(a.p, a.ld, a.chunk, first, rows, k0, n, place_);
      now_ = what;
    }
    return place_;
  }

 private:
  struct What {
    const float* p;
    long first, rows, k0, n;
    bool operator==(const What& o) const {
      return p == o.p && first == o.first && rows == o.rows && k0 == o.k0 && n == o.n;
    }
  };
  alignas(64) static thread_local bf16 place_[MOST_HELD];
  static thread_local What now_;
  const Tiles tiles_;
};

alignas(64) thread_local bf16 Held::place_[MOST_HELD];
thread_local Held::What Held::now_ = {};

// Rows [k0, k0 + n) of a panel, rounded.
template <class Source>
void round_part(const Source& b, long panel, long k0, long n, bf16* out) {
  alignas(64) static thread_local float packed[KB * NR];
  for (long k = 0; k < n; k += KB) {
    const long some = std::min(KB, n - k);
    round_panel(b.pack(panel, k0 + k, some, packed), some, out + k * NR);
  }
}

// As in multiply.h, but without turns: a thread keeps to rows that it has rounded.
template <class Source, class Sink>
void multiply(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink, Held& held,
              Turns* = nullptr) {
  alignas(64) static thread_local float values[BLOCK_ROWS * NR];
  alignas(64) static thread_local bf16 rounded[MOST_DEPTH * NR];
  const long panels = (N + NR - 1) / NR, tiles = squares(M), most_k = std::min(squares(K) * SIDE, MOST_DEPTH);
  const long at_once = std::min(BLOCK_ROWS / SIDE, most_k == 0 ? tiles : MOST_HELD / (SIDE * most_k));
  const long blocks = (tiles + at_once - 1) / at_once;
  const Part part(panels * tiles, id, threads);
  for (long i = 0; i < blocks; i++) {
    const long begin = tiles * i / blocks, end = tiles * (i + 1) / blocks;
    const long row0 = begin * SIDE, held_rows = std::min(M, end * SIDE) - row0;
    for (long panel = part.begin / tiles; panel * tiles < part.end; panel++) {
      const long first = std::max(begin, part.begin - panel * tiles), last = std::min(end, part.end - panel * tiles);
      if (first >= last) continue;
      const long from = first * SIDE, rows = std::min(M, last * SIDE) - from;
      for (long k0 = 0; k0 < K; k0 += MOST_DEPTH) {
        const long n = std::min(MOST_DEPTH, K - k0), depth = squares(n);
        round_part(b, panel, k0, n, rounded);
        const bf16* ak = held.rows(a, row0, held_rows, k0, n) + (from - row0) * depth * SIDE;
        for (long r = 0; r < rows; r += SIDE, ak += depth * 2 * SQUARE)
          block(depth, ak, depth * SQUARE, std::min(SIDE, rows - r), rounded, values + r * NR, k0 > 0);
      }
      if (K == 0) std::memset(values, 0, rows * NR * sizeof(float));
      sink(panel, from, rows, values);
    }
  }
}

template <class Source, class Sink>
void multiply_deep(int id, int threads, long M, long N, long K, Rows a, const Source& b, const Sink& sink, float* waiting,
                   Held& held) {
  alignas(64) static thread_local bf16 rounded[MOST_DEPTH * NR];
  constexpr long MOST_ROWS = 2048;
  const long panels = (N + NR - 1) / NR, tiles = squares(M), most = std::min(tiles, MOST_ROWS / SIDE);
  const long deep = most == 0 ? KB : std::min(MOST_DEPTH, MOST_HELD / (most * SIDE) / SIDE * SIDE);
  const Part part(panels * tiles, id, threads);
  for (long begin = 0; begin < tiles; begin += most) {
    const long end = std::min(begin + most, tiles), row0 = begin * SIDE, held_rows = std::min(M, end * SIDE) - row0;
    for (long k0 = 0; k0 < K; k0 += deep) {
      const long n = std::min(deep, K - k0), depth = squares(n);
      for (long panel = part.begin / tiles; panel * tiles < part.end; panel++) {
        const long first = std::max(begin, part.begin - panel * tiles), last = std::min(end, part.end - panel * tiles);
        if (first >= last) continue;
        const long from = first * SIDE, rows = std::min(M, last * SIDE) - from;
        float* values = waiting + (panel * M + from) * NR;
        round_part(b, panel, k0, n, rounded);
        const bf16* ak = held.rows(a, row0, held_rows, k0, n) + (from - row0) * depth * SIDE;
        for (long r = 0; r < rows; r += SIDE, ak += depth * 2 * SQUARE)
          block(depth, ak, depth * SQUARE, std::min(SIDE, rows - r), rounded, values + r * NR, k0 > 0);
        if (k0 + n == K) sink(panel, from, rows, values);
      }
    }
  }
}

REGRNN_INLINE long panel_floats(long K) { return squares(K) * SQUARE; }

template <class Source>
void pack_panel(const Source& b, long panel, long k0, long K, float* out) {
  round_part(b, panel, k0, K, reinterpret_cast<bf16*>(out));
}

inline void products(Held& held, const float* panels, int Q, long K, long rows, const float* a, long lda, float* out,
                     const float*, long) {
  for (long k0 = 0; k0 < K; k0 += MOST_HELD / SIDE) {
    const long n = std::min(MOST_HELD / SIDE, K - k0), depth = squares(n);
    const bf16* ak = held.rows(Rows{a, lda}, 0, rows, k0, n);
    for (int q = 0; q < Q; q++) {
      const bf16* panel = reinterpret_cast<const bf16*>(panels + q * panel_floats(K)) + k0 * NR;
      block(depth, ak, depth * SQUARE, rows, panel, out + q * rows * NR, k0 > 0);
    }
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
