// Matrix products, panel by panel: C = A B, with a choice of where B comes from and where C goes.
//
// The columns of C are cut into panels of NR. For one panel, KB rows of B at a time are packed next to each other, and
// every tile of rows of A passes over them while they are in the first-level cache. Each element of C is the sum over
// k in one order, whatever the number of threads, so that results do not depend on it.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "threads.h"
#include "tile.h"

namespace regrnn {
namespace REGRNN_ISA {

// B[k][j] = p[k * ld + j]; K x N.
struct ByRows {
  const float* p;
  long ld, N;
  const float* pack(long panel, long k0, long n, float* out) const {
    const long j = panel * NR, width = N - j;
    for (long k = 0; k < n; k++, out += NR) {
      const float* row = p + (k0 + k) * ld + j;
      store(out, load_some(row, width));
      store(out + VL, load_some(row + VL, width - VL));
    }
    return out - n * NR;
  }
  // Asks for part `i` of `parts` of what `pack` will read of so many panels.
  void ask(long panel, long panels, long k0, long n, long i, long parts) const {
    const float* row = p + panel * NR;
    for (long k = k0 + n * i / parts, end = k0 + n * (i + 1) / parts; k < end; k++)
      for (long j = 0; j < panels * NR; j += 16) fetch_later(row + k * ld + j);
  }
};

// B[k][j] = p[j * ld + k]; K x N. The layout of a weight matrix (outputs, inputs).
struct ByColumns {
  const float* p;
  long ld, N;
  const float* pack(long panel, long k0, long n, float* out) const {
    const long j0 = panel * NR;
    const int width = N - j0 < NR ? static_cast<int>(N - j0) : NR;
    if (width < NR) std::memset(out, 0, n * NR * sizeof(float));
    turn(p + j0 * ld + k0, ld, width, n, out, NR);
    return out;
  }
  void ask(long panel, long panels, long k0, long n, long i, long parts) const {
    const long j0 = panel * NR, columns = std::min(panels * NR, N - j0);
    for (long j = j0 + columns * i / parts, end = j0 + columns * (i + 1) / parts; j < end; j++)
      for (long k = 0; k < n; k += 16) fetch_later(p + j * ld + k0 + k);
  }
};

// Panels that lie ready: B[k][panel * NR + j] = p[(panel * K + k) * NR + j].
struct Ready {
  const float* p;
  long K;
  const float* pack(long panel, long k0, long, float*) const { return p + (panel * K + k0) * NR; }
  void ask(long panel, long panels, long k0, long n, long i, long parts) const {
    for (long w = panel; w < panel + panels; w++)
      for (long k = k0 + n * i / parts, end = k0 + n * (i + 1) / parts; k < end; k++)
        for (long j = 0; j < NR; j += 16) fetch_later(p + (w * K + k) * NR + j);
  }
};

// A, M x K: row r at p + r * ld, chunks of NR elements `chunk` apart (see `tile`).
struct Rows {
  const float* p;
  long ld;
  long chunk = NR;
};

// C row by row, with one or two biases (or none) on its columns, and a factor and a factor for each row (or none).
struct IntoRows {
  static constexpr bool wants_sums = false;
  static constexpr bool takes_half = true;  // of a panel whose second vector is beyond the last column
  float* c;
  long ld, N;
  const float* bias = nullptr;
  const float* bias2 = nullptr;
  const float* row_factor = nullptr;
  float factor = 1.f;

  // Asks for where so many rows of so many panels will go.
  void ask(long panel, long panels, long row0, long rows) const {
    for (long r = row0; r < row0 + rows; r++)
      for (long i = 0; i < panels * NR; i += 16) fetch_to_write(c + r * ld + panel * NR + i);
  }
  void operator()(long panel, long row0, long rows, const float* values) const {
    const long j = panel * NR, width = N - j;
    constexpr long AHEAD = 8;  // rows whose lines are asked for
    vf b0 = {}, b1 = {};
    for (const float* b : {bias, bias2}) {
      if (b == nullptr) continue;
      b0 += load_some(b + j, width);
      b1 += load_some(b + j + VL, width - VL);
    }
    for (long r = 0; r < rows; r++) {
      float* out = c + (row0 + r) * ld + j;
      for (long i = 0; i < NR && r + AHEAD < rows; i += 16) fetch_to_write(out + AHEAD * ld + i);
      const float f = row_factor == nullptr ? factor : factor * row_factor[row0 + r];
      store_some(out, load(values + r * NR) * f + b0, width);
      store_some(out + VL, load(values + r * NR + VL) * f + b1, width - VL);
    }
  }
};

// C transposed, c[j * ld + r], unless c is null; and the column sums of B.
struct IntoColumns {
  static constexpr bool wants_sums = true;
  float* c;
  long ld, N;
  float* column_sums = nullptr;
  float* column_sums2 = nullptr;
  const float* weights = nullptr;
  float factor = 1.f;  // of the sums alone

  float weight(long k) const { return weights == nullptr ? factor : factor * weights[k]; }
  void sums(long panel, const float* values) const {
    const long j = panel * NR, width = N - j < NR ? N - j : NR;
    for (float* out : {column_sums, column_sums2})
      for (long i = 0; out != nullptr && i < width; i++) out[j + i] = values[i];
  }
  void ask(long panel, long panels, long row0, long rows) const {
    constexpr long LINE = 16;
    const long j = panel * NR, width = std::min(panels * NR, N - j);
    if (c == nullptr || row0 / LINE == (row0 + rows) / LINE) return;  // once for each line
    for (long i = 0; i < width; i++) fetch_to_write(c + (j + i) * ld + row0 + rows);
  }
  void operator()(long panel, long row0, long rows, const float* values) const {
    if (c == nullptr) return;
    const long j = panel * NR, width = N - j < NR ? N - j : NR;
    // A cache line of each column at a time, and those to come asked for: they lie far apart, where no processor looks ahead.
    constexpr long LINE = 16, AHEAD = 4 * LINE;
    float* out = c + j * ld + row0;
    for (long r = 0; r < rows; r += LINE, out += LINE) {
      for (long i = 0; i < width && r + AHEAD < rows; i++) fetch_to_write(out + i * ld + AHEAD);
      turn(values + r * NR, NR, std::min(LINE, rows - r), width, out, ld);
    }
  }
};

// C transposed, of an A whose rows are those of `first` (its ld of them), then one of weights, if `summed`, whose row of C are
// the sums that `first` has a place for, then those of `second`. So B is packed once for all of them.
struct IntoParts {
  static constexpr bool takes_half = true;
  IntoColumns first;
  bool summed = false;
  IntoColumns second = {nullptr, 0, 0};

  long rows() const { return first.ld + summed + second.ld; }
  void ask(long panel, long panels, long row0, long rows) const {
    const long behind = first.ld + summed;
    if (row0 < first.ld) first.ask(panel, panels, row0, rows);
    if (row0 >= behind) second.ask(panel, panels, row0 - behind, rows);
  }
  void operator()(long panel, long row0, long rows, const float* values) const {
    const long at = first.ld, behind = at + summed, end = row0 + rows;
    if (row0 < at) first(panel, row0, std::min(end, at) - row0, values);
    if (summed && row0 <= at && at < end) first.sums(panel, values + (at - row0) * NR);
    const long from = std::max(row0, behind);
    if (from < end) second(panel, from - behind, end - from, values + (from - row0) * NR);
  }
};

// The weighted sums of a panel's columns.
class Sums {
 public:
  // Of rows [k0, k0 + n), which lie at p.
  void add(const IntoColumns& sink, const float* p, long k0, long n) {
    for (long k = 0; k < n; k++) {
      const vf w = splat(sink.weight(k0 + k));
      sums_[0] += w * load(p + k * NR);
      sums_[1] += w * load(p + k * NR + VL);
    }
  }
  void give(const IntoColumns& sink, long panel) const {
    float out[NR];
    store(out, sums_[0]);
    store(out + VL, sums_[1]);
    sink.sums(panel, out);
  }

 private:
  vf sums_[2] = {};
};

// out[c * rows + r] = factor[r] * in[r * ld + c], this thread's part of the columns.
inline void transpose(int id, int threads, const float* in, long rows, long columns, long ld, const float* factor,
                      float scale, float* out) {
  constexpr long S = 16;  // a square of this side is read and written in whole cache lines
  const Part part((columns + S - 1) / S, id, threads);
  alignas(64) float square[S * S], factors[S];
  for (long c0 = part.begin * S; c0 < columns && c0 < part.end * S; c0 += S) {
    const long width = std::min(S, columns - c0);
    for (long r0 = 0; r0 < rows; r0 += S) {
      const long height = std::min(S, rows - r0);
      turn(in + r0 * ld + c0, ld, height, width, square, S);
      for (long r = 0; r < height; r++) factors[r] = factor == nullptr ? scale : scale * factor[r0 + r];
      for (long c = 0; c < width; c++)
        for (long r = 0; r < height; r += VL)
          store_some(out + (c0 + c) * rows + r0 + r, load(square + c * S + r) * load(factors + r), height - r);
    }
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
