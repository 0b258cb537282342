// Products with a matrix of which every row has a dropout mask of its own.
//
// What is struck is left out element by element: a row of the product is the sum of those rows of B that its row of A
// keeps. A part of B that fits in a first-level cache waits there while all rows of A pass. Each multiply-add loads one of
// its factors from there, where the rows of a tile would share what they load: dearer each, but only what is kept is
// multiplied. Each element of a product is summed over the same k in the same order whatever the number of threads.
#pragma once

#include <algorithm>

#include "product.h"
#include "shared.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long WORD = 64;  // elements of a row of which one word says, bit by bit, whether they are kept

REGRNN_INLINE long words_of(long n) { return (n + WORD - 1) / WORD; }

// A matrix word by word: word w of row r lies at values + (w * rows + r) * WORD and its bits at bits[w * rows + r]. Behind
// the last column no bit is set. Without values, where the elements are that are kept.
struct Kept {
  long rows, columns;
  float* values;
  uint64_t* bits;
};

REGRNN_INLINE uint64_t bits_of(const float* mask, long n) {
  uint64_t bits = 0;
  for (long k = 0; k < n; k++) bits |= static_cast<uint64_t>(mask[k] != 0) << k;
  return bits;
}

// x times its mask (out.rows, out.columns), or the bits alone where there is no x; this thread's part of the rows.
inline void keep_rows(int id, int threads, const float* mask, const float* x, const Kept& out) {
  const Part part(out.rows, id, threads);
  for (long w = 0; w < words_of(out.columns); w++) {
    const long k0 = w * WORD, n = std::min(WORD, out.columns - k0);
    for (long r = part.begin; r < part.end; r++) {
      const float* m = mask + r * out.columns + k0;
      out.bits[w * out.rows + r] = bits_of(m, n);
      if (x == nullptr) continue;
      const float* from = x + r * out.columns + k0;
      float* to = out.values + (w * out.rows + r) * WORD;
      for (long k = 0; k < n; k++) to[k] = from[k] * m[k];
    }
  }
}

// Bit j of a[i] becomes bit i of a[j]: squares on the diagonal are halved, and those beside it change places.
inline void turn_bits(uint64_t* a) {
  uint64_t low = 0x00000000FFFFFFFFull;
  for (int j = WORD / 2; j != 0; j /= 2, low ^= low << j)
    for (int k = 0; k < WORD; k = ((k | j) + 1) & ~j) {
      const uint64_t differing = ((a[k] >> j) ^ a[k | j]) & low;
      a[k] ^= differing << j;
      a[k | j] ^= differing;
    }
}

// The transpose of x times its mask, both (out.columns, out.rows), times `factor` and a factor for each row of x (or none);
// this thread's part.
inline void keep_columns(int id, int threads, const float* mask, const float* x, const float* row_factor, float factor,
                         const Kept& out) {
  alignas(64) float square[WORD * WORD];
  const long features = out.rows, rows = out.columns;
  const Part part(words_of(rows), id, threads);
  for (long w = part.begin; w < part.end; w++) {
    const long r0 = w * WORD, n = std::min(WORD, rows - r0);
    for (long k0 = 0; k0 < features; k0 += WORD) {
      const long width = std::min(WORD, features - k0);
      uint64_t bits[WORD] = {};
      for (long r = 0; r < n; r++) {
        const float *m = mask + (r0 + r) * features + k0, *from = x + (r0 + r) * features + k0;
        const float f = row_factor == nullptr ? factor : factor * row_factor[r0 + r];
        bits[r] = bits_of(m, width);
        for (long k = 0; k < width; k++) square[r * WORD + k] = f * (from[k] * m[k]);
      }
      turn_bits(bits);
      std::copy(bits, bits + width, out.bits + w * features + k0);
      turn(square, WORD, n, width, out.values + (w * features + k0) * WORD, WORD);
    }
  }
}

constexpr int ABREAST = VL == 16 ? 4 : 6;  // panels whose sums of a row stay in registers, and WORD rows of them in a cache
constexpr long ROWS_HELD = 1024;           // of a product of so many panels

// c[p][j] (+)= sum over the bits k of a[k] b[p][k][j], p < P, j < NR: panels of b are WORD rows high.
template <int P>
REGRNN_INLINE void row_of_kept(uint64_t bits, const float* a, const float* b, float* c, long c_apart, bool add) {
  constexpr int W = 2 * P;
  vf acc[W];
#pragma GCC unroll 12
  for (int w = 0; w < W; w++) acc[w] = add ? load(c + w / 2 * c_apart + w % 2 * VL) : vf{};
  for (; bits != 0; bits &= bits - 1) {
    const long k = __builtin_ctzll(bits);
    const vf x = splat(a[k]);
    const float* row = in_one_register(b + k * NR);
#pragma GCC unroll 12
    for (int w = 0; w < W; w++) multiply_add(acc[w], x, row + w / 2 * WORD * NR + w % 2 * VL);
  }
#pragma GCC unroll 12
  for (int w = 0; w < W; w++) store(c + w / 2 * c_apart + w % 2 * VL, acc[w]);
}

template <int P, class Source, class Sink>
void strip_of_kept(const Kept& a, const Source& b, long panel, const Sink& sink, float* values) {
  alignas(64) static thread_local float place[P * WORD * NR];
  float* const packed = in_one_register(place);
  for (long row0 = 0; row0 < a.rows; row0 += ROWS_HELD) {
    const long rows = std::min(ROWS_HELD, a.rows - row0), apart = rows * NR;
    Sums sums[P];
    for (long w = 0; w < words_of(a.columns); w++) {
      const long k0 = w * WORD, n = std::min(WORD, a.columns - k0);
      for (int p = 0; p < P; p++) {
        float* to = packed + p * WORD * NR;
        const float* from = b.pack(panel + p, k0, n, to);
        if (from != to) std::memcpy(to, from, n * NR * sizeof(float));
        if constexpr (Sink::wants_sums)
          if (row0 == 0) sums[p].add(sink, to, k0, n);
      }
      const float* x = a.values + (w * a.rows + row0) * WORD;
      const uint64_t* bits = a.bits + w * a.rows + row0;
      for (long r = 0; r < rows; r++) row_of_kept<P>(bits[r], x + r * WORD, packed, values + r * NR, apart, w > 0);
    }
    for (int p = 0; p < P; p++) {
      if (a.columns == 0) std::memset(values + p * apart, 0, apart * sizeof(float));
      if constexpr (Sink::wants_sums)
        if (row0 == 0) sums[p].give(sink, panel + p);
      sink(panel + p, row0, rows, values + p * apart);
    }
  }
}

// Strip i of `strips` that are nearly equally wide and no wider than ABREAST.
template <class Source, class Sink>
void strip_of_kept(const Kept& a, long panels, long strips, long i, const Source& b, const Sink& sink, float* values) {
  const long from = panels * i / strips;
  switch (panels * (i + 1) / strips - from) {
    case 1: return strip_of_kept<1>(a, b, from, sink, values);
    case 2: return strip_of_kept<2>(a, b, from, sink, values);
    case 3: return strip_of_kept<3>(a, b, from, sink, values);
    case 4: return strip_of_kept<4>(a, b, from, sink, values);
    case 5: return strip_of_kept<std::min(5, ABREAST)>(a, b, from, sink, values);
    default: return strip_of_kept<std::min(6, ABREAST)>(a, b, from, sink, values);
  }
}

// C = A B, which has so many columns: the strips that this thread gets of `turns`, or all where there are none. Scratch of
// this thread: `values`, ABREAST panels of at most ROWS_HELD rows.
template <class Source, class Sink>
void multiply_kept(Turns* turns, const Kept& a, long columns, const Source& b, const Sink& sink, float* values) {
  const long panels = (columns + NR - 1) / NR, strips = (panels + ABREAST - 1) / ABREAST;
  for (long i = 0, mine; (mine = turns == nullptr ? i : turns->next()) < strips; i++)
    strip_of_kept(a, panels, strips, mine, b, sink, values);
}

constexpr int DOT_VECTORS = VL == 16 ? 16 : 12;  // of a row of d that stay in registers
constexpr long DOT_COLUMNS = DOT_VECTORS * VL;
constexpr long DOT_WORD = VL == 16 ? 32 : 64;  // features worked on at a time: their parts of w stay in a first-level cache
constexpr long DOTS_HELD = 64;

// Products of D vectors of d, D even, with those rows of w, DOT_COLUMNS apart, whose bits are set: as vectors to be summed.
// Returns where the next one goes.
template <int D>
REGRNN_INLINE vf* dots_of_row(uint64_t bits, const float* d, const float* w, vf* out) {
  vf x[D];
#pragma GCC unroll 16
  for (int i = 0; i < D; i++) x[i] = load(d + i * VL);
  for (; bits != 0; bits &= bits - 1) {
    const float* row = in_one_register(w + __builtin_ctzll(bits) * DOT_COLUMNS);
    vf even = x[0] * load(row), odd = x[1] * load(row + VL);
#pragma GCC unroll 8
    for (int i = 2; i < D; i += 2) {
      even += x[i] * load(row + i * VL);
      odd += x[i + 1] * load(row + (i + 1) * VL);
    }
    *out++ = even + odd;
  }
  return out;
}

// Of a word, the bits of DOT_WORD features from the `shift`-th on.
REGRNN_INLINE uint64_t some_bits(uint64_t word, long shift) {
  return DOT_WORD == WORD ? word : word >> shift & ((uint64_t{1} << DOT_WORD % WORD) - 1);
}

// sums[i] (+)= the i-th of the dot products of rows of d, D VL wide, with those features that they keep.
template <int D>
void dots_of_rows(long rows, const uint64_t* bits, long shift, const float* d, const float* w, float* sums, bool add) {
  vf held[DOTS_HELD + DOT_WORD], *end = held;
  const auto give = [&](long n) {
    for (long i = 0; i < n; i += VL, sums += VL) store(sums, add ? load(sums) + sums_of(held + i) : sums_of(held + i));
  };
  for (long r = 0; r < rows; r++) {
    end = dots_of_row<D>(some_bits(bits[r], shift), d + r * D * VL, w, end);
    if (end - held < DOTS_HELD) continue;
    give(DOTS_HELD);
    end = std::copy(held + DOTS_HELD, end, held);
  }
  std::fill(end, held + DOTS_HELD, vf{});
  give(end - held);
}

// Floats that the dot products of so many rows with DOT_WORD features take.
REGRNN_INLINE long dots_floats(long rows) { return rows * DOT_WORD + VL; }

// d_x (kept.rows, kept.columns) = D(d w), for w (K, kept.columns), d (kept.rows, K) and the mask that `kept` tells of.
// Columns that are struck become 0. Scratch: sums, DOT_WORD features after the other, dots_floats of at most ROWS_HELD rows
// each; and some, twice that many rows of DOT_COLUMNS. Two `turns`.
inline void kept_input_gradient(int id, int threads, Barrier& barrier, Turns* turns, const Kept& kept, const float* mask, long K,
                                const float* w, Rows d, const float* row_factor, float factor, float* d_x, float* sums,
                                float* some) {
  alignas(64) static thread_local float place[DOT_WORD * DOT_COLUMNS];
  float* const turned = in_one_register(place);
  constexpr long most = DOT_VECTORS / 2;  // panels
  const long features = kept.columns, panels = (K + NR - 1) / NR, parts = (panels + most - 1) / most;
  const long words = (features + DOT_WORD - 1) / DOT_WORD;
  const Part part(words, id, threads);
  long phase = 0;
  const auto sums_of_word = [&](long n) { return sums + n * dots_floats(std::min(ROWS_HELD, kept.rows)); };
  for (long row0 = 0; row0 < kept.rows; row0 += ROWS_HELD) {
    const long rows = std::min(ROWS_HELD, kept.rows - row0);
    const Part mine(rows, id, threads);
    const auto bits_of_word = [&](long f0) { return kept.bits + f0 / WORD * kept.rows + row0; };
    for (long i = 0; i < parts; i++, phase++) {
      const long p0 = panels * i / parts, p1 = panels * (i + 1) / parts, width = (p1 - p0) * NR;
      // Next to each other, in whole cache lines: the rows of d can be far apart. A thread that is ahead fills the other half.
      float* const now = some + phase % 2 * std::min(ROWS_HELD, kept.rows) * DOT_COLUMNS;
      for (long r = mine.begin; r < mine.end; r++)
        for (long p = p0; p < p1; p++) {
          const float* from = d.p + (row0 + r) * d.ld + p * d.chunk;
          float* to = now + r * width + (p - p0) * NR;
          store(to, load_some(from, K - p * NR));
          store(to + VL, load_some(from + VL, K - p * NR - VL));
        }
      barrier.wait();
      if (id == 0) turns[(phase + 1) % 2].again();
      const long k0 = p0 * NR, depth = std::min(width, K - k0);
      if (depth < width) std::memset(turned, 0, sizeof place);
      for (long n; (n = turns[phase % 2].next()) < words;) {
        const long f0 = n * DOT_WORD;
        turn(w + k0 * features + f0, features, depth, std::min(DOT_WORD, features - f0), turned, DOT_COLUMNS);
        const auto dots = [&](auto D) {
          dots_of_rows<D>(rows, bits_of_word(f0), f0 % WORD, now, turned, sums_of_word(n), i > 0);
        };
        switch (p1 - p0) {
          case 1: dots(std::integral_constant<int, 2>()); break;
          case 2: dots(std::integral_constant<int, 4>()); break;
          case 3: dots(std::integral_constant<int, 6>()); break;
          case 4: dots(std::integral_constant<int, 8>()); break;
          case 5: dots(std::integral_constant<int, 10>()); break;
          case 6: dots(std::integral_constant<int, 12>()); break;
          case 7: dots(std::integral_constant<int, std::min(14, DOT_VECTORS)>()); break;
          default: dots(std::integral_constant<int, DOT_VECTORS>());
        }
      }
    }
    barrier.wait();
    for (long n = part.begin; n < part.end; n++) {
      const long f0 = n * DOT_WORD, width = std::min(DOT_WORD, features - f0);
      const float* sum = sums_of_word(n);
      for (long r = 0; r < rows; r++) {
        const float f = row_factor == nullptr ? factor : factor * row_factor[row0 + r];
        const float* m = mask + (row0 + r) * features + f0;
        float* out = d_x + (row0 + r) * features + f0;
        std::memset(out, 0, width * sizeof(float));
        for (uint64_t bits = some_bits(bits_of_word(f0)[r], f0 % WORD); bits != 0; bits &= bits - 1) {
          const int k = __builtin_ctzll(bits);
          out[k] = K == 0 ? 0.f : f * m[k] * *sum++;
        }
      }
    }
  }
}

// The products of a layer or a softmax with x (N, K), of which every element has a mask, and their scratch: made before the
// threads come together, for one of the products with D(x) or for its gradients.
class Separate {
 public:
  Separate(long N, long K, const float* mask, int threads, Scratch& room)
      : mask_(mask), own_apart_(whole_lines(ABREAST * NR * std::min(std::max(N, K), ROWS_HELD))) {
    const auto kept = [&](long rows, long columns) {
      const long words = rows * words_of(columns);
      float* values = room.take(words * WORD);
      return Kept{rows, columns, values, room.take<uint64_t>(words)};
    };
    by_rows_ = kept(N, K);
    by_columns_ = kept(K, N);
    waiting_ = room.take(std::max((K + DOT_WORD - 1) / DOT_WORD * dots_floats(std::min(N, ROWS_HELD)), (K + NR - 1) / NR * NR * N));
    some_ = room.take(2 * std::min(N, ROWS_HELD) * DOT_COLUMNS);
    own_ = room.take(threads * own_apart_);
  }

  // What `multiply` needs of x; then a barrier.
  void keep(int id, int threads, const float* x) const { keep_rows(id, threads, mask_, x, by_rows_); }

  // C = D(x) B, as multiply_kept.
  template <class Source, class Sink>
  void multiply(int id, Turns* turns, long columns, const Source& b, const Sink& sink) const {
    multiply_kept(turns, by_rows_, columns, b, sink, own(id));
  }

  // What the gradients need: of the input without x, of the weights with it; then a barrier.
  void keep_for_gradients(int id, int threads, bool input, const float* x, const float* row_factor, float factor) const {
    if (input && DOTS) keep_rows(id, threads, mask_, nullptr, by_rows_);
    if (x != nullptr) keep_columns(id, threads, mask_, x, row_factor, factor, by_columns_);
  }

  // d_x = D(d w) for d (N, columns) and w (columns, K).
  void input_gradient(int id, int threads, Barrier& barrier, long columns, const float* w, Rows d, const float* row_factor,
                      float factor, float* d_x) {
    const long N = by_rows_.rows, K = by_rows_.columns;
    if (DOTS)
      return kept_input_gradient(id, threads, barrier, words_, by_rows_, mask_, columns, w, d, row_factor, factor, d_x, waiting_,
                                 some_);
    Held held;
    multiply_deep(id, threads, N, K, columns, d, ByRows{w, K, K}, IntoRows{d_x, K, K, nullptr, nullptr, row_factor, factor},
                  waiting_, held);
    barrier.wait();
    const Part part(N * K, id, threads);
    for (long i = part.begin; i < part.end; i++) d_x[i] = columns == 0 || mask_[i] == 0 ? 0.f : d_x[i] * mask_[i];
  }

  // (columns, K) = (D(x)^T b)^T.
  template <class Source>
  void weight_gradient(int id, long columns, const Source& b, const IntoColumns& sink) {
    multiply_kept(&strips_, by_columns_, columns, b, sink, own(id));
  }

 private:
  // Whether dot products with what is kept take less time than all products: their sums cost narrow vectors more.
  static constexpr bool DOTS = VL >= 8;

  float* own(int id) const { return own_ + id * own_apart_; }

  const float* mask_;
  long own_apart_;
  Kept by_rows_, by_columns_;
  float *waiting_, *some_, *own_;
  Turns strips_, words_[2];
};

}  // namespace REGRNN_ISA
}  // namespace regrnn
