// A stack of layers step by step without gradients: few rows, so that reading the weights is what takes the time.
//
// The weights are laid out once, for many steps: panels of floats, or, at a quarter of the memory, bytes with a scale for
// each output. Under bytes the input is rounded to as many bits as cannot overflow a 32-bit sum, 14 or more, so that the
// sums themselves are exact. There is a barrier behind each layer and behind the softmax.
#pragma once

#include <algorithm>
#include <cmath>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "recurrent.h"

namespace regrnn {
namespace REGRNN_ISA {

// Bytes: what is asked for while this is worked on, since a page's end stops the hardware.
constexpr long FAR_AHEAD = 4096;

// out[i] = sum over k of w[i][k] x[k], i < 4, of four outputs that lie together: w[k / 16][i][k % 16]. n is a multiple
// of 16.
inline void dot4(const int8_t* w, const int16_t* x, long n, int32_t* out) {
#if defined(__AVX2__)
  __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  for (long k = 0; k < n; k += 16, w += 64) {
    fetch(w + FAR_AHEAD);
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + 16 * i));
      s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(_mm256_cvtepi8_epi16(b), v));
    }
  }
  const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
  const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sums);
#else
  std::memset(out, 0, 4 * sizeof(int32_t));
  for (long k = 0; k < n; k += 16, w += 64)
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 16; j++) out[i] += static_cast<int32_t>(w[16 * i + j]) * x[k + j];
#endif
}

// out[i][NR] = x (K) times panel i of P panels of floats, `stride` floats apart. As `tile` of one row, sum by sum, so
// that results do not depend on how many rows there are; several panels at once keep the units busy.
template <int P>
void panels_of_one(const float* panels, long stride, long K, const float* x, float* out) {
  vf s[P][2] = {};
  auto step = [&](long k) REGRNN_LAMBDA_INLINE {
    const vf v = splat(x[k]);
#pragma GCC unroll 4
    for (int i = 0; i < P; i++) {
      const float* row = panels + i * stride + k * NR;
      for (long line = 0; line < NR; line += 16) fetch(row + line + FAR_AHEAD / 4);
      multiply_add(s[i][0], v, row);
      multiply_add(s[i][1], v, row + VL);
    }
  };
  long k = 0;
  for (; k + 4 <= K; k += 4) step(k), step(k + 1), step(k + 2), step(k + 3);
  for (; k < K; k++) step(k);
#pragma GCC unroll 4
  for (int i = 0; i < P; i++) {
    store(out + i * NR, s[i][0]);
    store(out + i * NR + VL, s[i][1]);
  }
}

// B rows, ld floats apart, that a matrix is multiplied with; rounded first where it is of bytes.
struct Operand {
  const float* p;
  long ld;
  const int16_t* rounded;
  const float* steps;  // what 1 of `rounded` stands for, row by row
};

inline Operand operand(const Matrix& m, long B, const float* p, long ld, int16_t* rounded, float* steps) {
  if (m.panels != nullptr) return {p, ld, nullptr, nullptr};
  const float most = static_cast<float>(std::min(32767L, 2147483647L / (127 * std::max<long>(m.K, 1))));
  for (long b = 0; b < B; b++) {
    const float* row = p + b * ld;
    int16_t* out = rounded + b * m.stride;
    vf most_of = {}, zero = {};
    for (long k = 0; k < m.K; k += VL) {
      const vf v = load_some(row + k, m.K - k);
      most_of = max(v, max(-v, most_of));
      zero += v - v;  // NaN if v is infinite or NaN
    }
    const bool finite = sum(zero) == 0;
    const float most_here = finite ? largest(most_of) : 0.f, scale = most_here > 0 ? most / most_here : 0.f;
    const vf round = splat(12582912.f);  // as in `exp`
    for (long k = 0; k < m.stride; k += VL) {
      const vf v = finite ? load_some(row + k, m.K - k) * scale : vf{};
      const vs16 rounded_v = __builtin_convertvector(reinterpret_cast<vi>(v + round) - 0x4B400000, vs16);
      std::memcpy(out + k, &rounded_v, sizeof rounded_v);
    }
    steps[b] = finite ? most_here / most : std::numeric_limits<float>::quiet_NaN();
  }
  return {p, ld, rounded, steps};
}

constexpr int PANELS = 4;  // the most that are multiplied at a time

// out[i][b][NR] = the outputs for every row of `count` panels, from `panel`, `apart` panels apart.
inline void panel_products(const Matrix& m, long panel, long apart, int count, long B, const Operand& x, float* out) {
  if (m.panels != nullptr && B == 1) {
    const float* first = m.panels + panel * m.K * NR;
    const long stride = apart * m.K * NR;
    switch (count) {
      case 1: return panels_of_one<1>(first, stride, m.K, x.p, out);
      case 2: return panels_of_one<2>(first, stride, m.K, x.p, out);
      case 3: return panels_of_one<3>(first, stride, m.K, x.p, out);
      default: return panels_of_one<PANELS>(first, stride, m.K, x.p, out);
    }
  }
  if (m.panels != nullptr) {
    const long tiles = tiles_of(B), stride = apart * m.K * NR;
    for (int n = 0, wide; n < count; n += wide) {
      wide = std::min(PAIR, count - n);
      for (long k0 = 0; k0 < m.K; k0 += KB)
        for (long i = 0; i < tiles; i++) {
          const long r = tile_start(B, tiles, i), depth = std::min(KB, m.K - k0);
          const int rows = static_cast<int>(tile_start(B, tiles, i + 1) - r);
          const float* w = m.panels + (panel + n * apart) * m.K * NR + k0 * NR;
          const float* from = x.p + r * x.ld + k0;
          float* c = out + (n * B + r) * NR;
          if (wide == 2)
            tile_rows<PAIR, Ahead::nothing>(rows, depth, from, x.ld, NR, w, stride, c, B * NR, k0 > 0, nullptr);
          else
            tile_rows<1, Ahead::nothing>(rows, depth, from, x.ld, NR, w, 0, c, 0, k0 > 0, nullptr);
        }
    }
    return;
  }
  for (int n = 0; n < count; n++, panel += apart, out += B * NR) {
    for (long i = 0; i < NR; i += 4) {
      const int8_t* w = m.bytes + (panel * NR + i) * m.stride;
      for (long b = 0; b < B; b++) {
        int32_t sums[4];
        dot4(w, x.rounded + b * m.stride, m.stride, sums);
        for (int j = 0; j < 4; j++)
          out[b * NR + i + j] = m.scales[panel * NR + i + j] * x.steps[b] * static_cast<float>(sums[j]);
      }
    }
  }
}

// One thread's memory, and what it knows of how work is shared.
struct Own {
  float* products;
  int16_t *rounded, *rounded_state;
  float *steps, *steps_state;
  int32_t* unknown;
  Rounds* rounds;  // of all threads
  long round;

  // Calls visit(i) for those of n things that this thread gets; when it returns, all of them are done.
  template <class Visit>
  void share(int id, int threads, Barrier& barrier, long n, const Visit& visit) {
    const auto count = [&](int whose) {
      const Part part(n, whose, threads);
      return part.end - part.begin;
    };
    rounds->each(id, threads, round++, count, [&](int whose, long i) { visit(Part(n, whose, threads).begin + i); });
    barrier.wait();
  }
};

// Of all rows, those whose tokens' products with the first layer's weights have not been computed before.
struct Unknown {
  const int64_t* tokens;
  const int32_t* rows;
  long count;
  // Which row the i-th is. Of layers that have no tokens, all are.
  long operator[](long i) const { return tokens == nullptr ? i : rows[i]; }
};

inline Unknown list_unknown(const Stack& s, const int64_t* tokens, const Own& own) {
  long n = 0;
  for (long b = 0; b < s.B; b++)
    if (s.known == nullptr || !s.known[tokens[b]]) own.unknown[n++] = static_cast<int32_t>(b);
  return {tokens, own.unknown, n};
}

// The gates of a panel of units from x, `from` being the unknown rows of it, and what is known of the others.
inline void project_panel(const Stack& s, const StackedLayer& layer, int Q, const Unknown& unknown, const Operand& from, long p,
                          float* products) {
  const long H = s.H, j = p * NR, width = std::min<long>(NR, H - j), n = unknown.count;
  const bool table = unknown.tokens != nullptr && s.known != nullptr;
  if (n > 0) panel_products(layer.w_ih, p, (H + NR - 1) / NR, Q, n, from, products);
  for (int q = 0; q < Q; q++) {
    for (long i = 0; i < n; i++)
      for (long v = 0; v < width; v += VL) {
        vf a = load(products + (q * n + i) * NR + v);
        if (layer.bias != nullptr) a += load_some(layer.bias + q * H + j + v, width - v);
        store_some(s.gates + (unknown[i] * Q + q) * H + j + v, a, width - v);
        if (table) store_some(s.projected + (unknown.tokens[unknown[i]] * Q + q) * H + j + v, a, width - v);
      }
    for (long b = 0; table && b < s.B; b++)
      if (s.known[unknown.tokens[b]])
        std::memcpy(s.gates + (b * Q + q) * H + j, s.projected + (unknown.tokens[b] * Q + q) * H + j, width * sizeof(float));
  }
}

// One layer's step: x and the state h, c into the next one.
template <int cell>
void step_layer(int id, int threads, Barrier& barrier, const Stack& s, const StackedLayer& layer, const Unknown& unknown,
                const float* x, const float* h, const float* c, float* h_next, float* c_next, Own& own) {
  const int Q = gates_of(cell);
  const long B = s.B, H = s.H, blocks = (H + NR - 1) / NR;
  const int64_t size = B, start = 0;
  Pass l{};
  l.cell = cell, l.T = 1, l.H = H, l.sizes = &size, l.starts = &start, l.b_hn = layer.b_hn;
  l.h0 = h, l.c0 = c, l.gates = s.gates, l.h = s.h_now, l.c = s.c_now, l.h_n = h_next, l.c_n = c_next;
  const Steps steps{l};
  const Operand from = operand(layer.w_ih, unknown.count, x, layer.w_ih.K, own.rounded, own.steps);
  const Operand from_state = operand(layer.w_hh, B, h, H, own.rounded_state, own.steps_state);
  own.share(id, threads, barrier, blocks, [&](long p) {
    project_panel(s, layer, Q, unknown, from, p, own.products);
    panel_products(layer.w_hh, p, blocks, Q, B, from_state, own.products);
    for (long b = 0; b < B; b++)
      for (long v = 0; v < NR && p * NR + v < H; v += VL)
        forward_unit<cell>(l, steps, 0, b, p * NR + v, H - p * NR - v, own.products + b * NR + v, B * NR);
  });
}

inline void step_any(int id, int threads, Barrier& barrier, const Stack& s, const StackedLayer& layer, const Unknown& unknown,
                     const float* x, const float* h, const float* c, float* h_next, float* c_next, Own& own) {
  switch (s.cell) {
    case TANH: return step_layer<TANH>(id, threads, barrier, s, layer, unknown, x, h, c, h_next, c_next, own);
    case RELU: return step_layer<RELU>(id, threads, barrier, s, layer, unknown, x, h, c, h_next, c_next, own);
    case SIGMOID: return step_layer<SIGMOID>(id, threads, barrier, s, layer, unknown, x, h, c, h_next, c_next, own);
    case LSTM: return step_layer<LSTM>(id, threads, barrier, s, layer, unknown, x, h, c, h_next, c_next, own);
    default: return step_layer<GRU>(id, threads, barrier, s, layer, unknown, x, h, c, h_next, c_next, own);
  }
}

// The first layer's products of these tokens are known from the next step on.
inline void remember(int id, const Stack& s, const int64_t* tokens, long n) {
  for (long b = 0; id == 0 && s.known != nullptr && b < n; b++) s.known[tokens[b]] = 1;
}

// The logits of x (B, H). All threads meet at the end.
inline void decode(int id, int threads, Barrier& barrier, const Stack& s, const float* x, Own& own) {
  const long panels = (s.V + NR - 1) / NR;
  const Operand from = operand(s.decoder, s.B, x, s.H, own.rounded, own.steps);
  own.share(id, threads, barrier, (panels + PANELS - 1) / PANELS, [&](long i) {
    const long p = i * PANELS;
    const int count = static_cast<int>(std::min<long>(PANELS, panels - p));
    panel_products(s.decoder, p, 1, count, s.B, from, own.products);
    for (int n = 0; n < count; n++) {
      const long j = (p + n) * NR, width = s.V - j;
      for (long b = 0; b < s.B; b++)
        for (long v = 0; v < NR; v += VL) {
          vf y = load(own.products + (n * s.B + b) * NR + v);
          if (s.decoder_bias != nullptr) y += load_some(s.decoder_bias + j + v, width - v);
          store_some(s.logits + b * s.V + j + v, y, width - v);
        }
    }
  });
}

// One step of all layers from `tokens`, and the logits unless V is 0; in s.x are the embeddings of those that are unknown.
// `now` (0 or 1) says which half of the states is read. All threads meet at the end.
inline void step_stack(int id, int threads, Barrier& barrier, const Stack& s, const Unknown& unknown, int now, Own& own) {
  const long all = s.layers * s.B * s.H, one = s.B * s.H;
  const float* x = s.x;
  for (long i = 0; i < s.layers; i++) {
    float *h = s.h + now * all + i * one, *c = s.c + now * all + i * one;
    float *h_next = s.h + (1 - now) * all + i * one, *c_next = s.c + (1 - now) * all + i * one;
    step_any(id, threads, barrier, s, s.stacked[i], i == 0 ? unknown : Unknown{nullptr, nullptr, s.B}, x, h, c, h_next, c_next,
             own);
    if (i == 0) remember(id, s, unknown.tokens, s.B);
    x = h_next;
  }
  if (s.V > 0) decode(id, threads, barrier, s, x, own);
}

constexpr long LOT = 512;  // probabilities that are summed in single precision; lots are in double

// How many of x are not below `least`, and their sum.
struct Upper {
  long count;
  double sum;
};

inline Upper upper(const float* x, long V, float least) {
  vi counts = {};
  double total = 0;
  for (long from = 0; from < V; from += LOT) {
    const long end = std::min(from + LOT, V);
    vf sums = {};
    for (long v = from; v < end; v += VL) {
      const vf y = load_some(x + v, end - v);  // 0 behind the end, which is counted only if `least` is 0
      const vi in = y >= splat(least);
      counts -= in;
      sums += in ? y : vf{};
    }
    total += sum(sums);
  }
  long count = 0;
  for (int i = 0; i < VL; i++) count += counts[i];
  return {count, total};
}

// Makes 0 all of x but the largest that are `enough`, the first of equal ones. x is from 0 to 1, and all of it enough.
//
// The least of what stays is found by halving the range of floats in which it lies, which orders them as integers do:
// that takes at most thirty readings of x, where sorting it can take longer than a step of the model.
template <class Enough>
void keep_largest(float* x, long V, const Enough& enough) {
  const auto number = [](int32_t bits) {
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
  };
  int32_t low = 0, high = 0x3F800001;  // what is not below is enough, and is not: 0 and just above 1
  Upper kept{0, 0};                    // what is not below `high`
  long more = V;                       // what is between them
  while (high - low > 1 && more > 1) {
    const int32_t middle = low + (high - low) / 2;
    const Upper found = upper(x, V, number(middle));
    if (enough(found))
      low = middle, more = found.count - kept.count;
    else
      high = middle, more -= found.count - kept.count, kept = found;
  }
  for (long v = 0; v < V; v++) {
    if (x[v] >= number(high)) continue;
    if (x[v] >= number(low) && !enough(kept))
      kept.count++, kept.sum += x[v];
    else
      x[v] = 0;
  }
}

// Where the largest of one row's logits is; those of tokens that must not be drawn become -infinity.
inline long largest_at(float* x, long V, const Drawing& d) {
  for (long i = 0; i < d.nevers; i++) x[d.never[i]] = -std::numeric_limits<float>::infinity();
  float most = x[0];
  long top = 0;
  for (long from = 0; from < V; from += LOT) {
    const long n = std::min(LOT, V - from);
    vf largest_yet = splat(most);
    long v = 0;
    for (; v + VL <= n; v += VL) largest_yet = max(load(x + from + v), largest_yet);
    float here = largest(largest_yet);
    for (; v < n; v++) here = x[from + v] > here ? x[from + v] : here;
    if (here > most) most = here, top = from;
  }
  if (most == most)  // it is not if x[0] is NaN
    while (x[top] != most) top++;
  return top;
}

// One row's logits, the largest at `top`, into probabilities times the number that is returned. As
// `regrnn.search.sampling.truncate_logits`.
inline double weigh(float* x, long V, long top, const Drawing& d) {
  // The largest becomes 0 and stays it, however near to 0 the temperature.
  const float most = x[top], scale = std::max(d.temperature, std::numeric_limits<float>::min());
  for (long v = 0; v < V; v += VL) store_some(x + v, exp((load_some(x + v, V - v) - most) / scale), V - v);
  double total = upper(x, V, 0.f).sum;
  if (!(total > 0)) return total;  // x[0] is NaN
  if (d.top_k > 0 && d.top_k < V) {
    keep_largest(x, V, [&](const Upper& u) { return u.count >= d.top_k; });
    total = upper(x, V, 0.f).sum;
  }
  if (d.top_p < 1.f) {
    keep_largest(x, V, [&](const Upper& u) { return u.sum >= d.top_p * total; });
    total = upper(x, V, 0.f).sum;
  }
  return total;
}

// The first token at which the sum of probabilities, in the order of the tokens, is above `uniform`; or `top`.
inline int64_t pick(const float* x, long V, long top, double total, float uniform) {
  double reached = 0;
  const double wanted = uniform * total;
  for (long from = 0; from < V; from += LOT) {
    const long n = std::min(LOT, V - from);
    const double after = reached + upper(x + from, n, 0.f).sum;
    if (after > wanted) {
      long last = top;  // if by rounding no token of the lot reaches what the lot does
      for (long v = from; v < from + n; v++) {
        if (x[v] > 0) last = v;
        reached += x[v];
        if (reached > wanted) return v;
      }
      return last;
    }
    reached = after;
  }
  return top;
}

inline bool takes_largest(const Drawing& d) { return d.temperature == 0.f || d.top_k == 1; }

// A token of one row, which overwrites its logits.
inline int64_t draw(float* x, long V, const Drawing& d, float uniform) {
  const long top = largest_at(x, V, d);
  if (takes_largest(d)) return top;
  const double total = weigh(x, V, top, d);
  return total > 0 ? pick(x, V, top, total, uniform) : top;
}

// A token of one row where another distribution q has proposed `token` (Leviathan et al. 2023, algorithm 1): this one if p,
// what `draw` draws from, is not below q there, and else with a probability of p / q; and otherwise one of what p has above q.
// So it is drawn from p, whatever q is. q is as `weigh` leaves it. Overwrites both.
inline int64_t judge(float* x, float* q, long V, const Drawing& d, int64_t token, const float* uniform) {
  const long top = largest_at(x, V, d);
  if (takes_largest(d)) return top;
  const double total = weigh(x, V, top, d), of_q = upper(q, V, 0.f).sum;
  if (!(total > 0)) return top;
  if (!(of_q > 0)) return pick(x, V, top, total, uniform[1]);
  if (uniform[0] * static_cast<double>(q[token]) / of_q < x[token] / total) return token;
  const float p_scale = static_cast<float>(1 / total), q_scale = static_cast<float>(1 / of_q);
  for (long v = 0; v < V; v += VL) {
    const vf above = load_some(x + v, V - v) * p_scale - load_some(q + v, V - v) * q_scale;
    store_some(q + v, max(above, vf{}), V - v);
  }
  const double left = upper(q, V, 0.f).sum;
  return left > 0 ? pick(q, V, top, left, uniform[1]) : pick(x, V, top, total, uniform[1]);
}

inline Own own_of(const Stack& s, int id, Rounds& rounds) {
  long stride = s.decoder.stride;
  for (long i = 0; i < s.layers; i++)
    stride = std::max<long>({stride, s.stacked[i].w_ih.stride, s.stacked[i].w_hh.stride});
  int16_t* rounded = s.rounded + 2 * id * s.B * stride;
  float* steps = s.steps + 2 * id * s.B;
  return {s.products + id * PANELS * s.B * NR, rounded, rounded + s.B * stride, steps, steps + s.B, s.unknown + id * s.B,
          &rounds, 0};
}

template <class Body>
void with_own(const Stack& s, const Body& body) {
  Rounds rounds;
  parallel(static_cast<int>(s.threads), [&](int id, int threads, Barrier& barrier) {
    Own own = own_of(s, id, rounds);
    body(id, threads, barrier, own);
  });
}

// The embeddings of the tokens whose products are unknown, one after the other into s.x, and which these are. All threads meet.
inline Unknown enter_tokens(int id, int threads, Barrier& barrier, const Stack& s, const int64_t* tokens, const Own& own) {
  const Unknown unknown = list_unknown(s, tokens, own);
  const Part part(unknown.count, id, threads);
  for (long i = part.begin; i < part.end; i++)
    std::memcpy(s.x + i * s.E, s.embedding + tokens[unknown[i]] * s.E, s.E * sizeof(float));
  barrier.wait();
  return unknown;
}

// Logits and the next state after `tokens` (B), from half 0 of the states into half 1.
inline void step_tokens(const Stack& s, const int64_t* tokens) {
  with_own(s, [&](int id, int threads, Barrier& barrier, Own& own) {
    step_stack(id, threads, barrier, s, enter_tokens(id, threads, barrier, s, tokens, own), 0, own);
  });
}

// Draws tokens (length, B), the first from s.logits; after each it steps, so that s.logits are those of the next. The
// state is then in half `length % 2`.
inline void generate(const Stack& s, const Drawing& d, long length, int64_t* tokens) {
  with_own(s, [&](int id, int threads, Barrier& barrier, Own& own) {
    const Part rows(s.B, id, threads);
    for (long i = 0; i < length; i++) {
      for (long b = rows.begin; b < rows.end; b++)
        tokens[i * s.B + b] = draw(s.logits + b * s.V, s.V, d, d.uniform[i * s.B + b]);
      barrier.wait();
      const Unknown unknown = enter_tokens(id, threads, barrier, s, tokens + i * s.B, own);
      step_stack(id, threads, barrier, s, unknown, static_cast<int>(i % 2), own);
    }
  });
}

// A layer over n time steps of one sequence, x (n, w_ih.K) and its states h, c (n + 1, H) from the first row on. The input's
// products are those of all steps at once, and the recurrent weights, needed step after step, are near while they are.
template <int cell>
void advance_layer(int id, int threads, Barrier& barrier, const Stack& s, const StackedLayer& layer, const Unknown& unknown,
                   long n, const float* x, float* h, float* c, Own& own) {
  const int Q = gates_of(cell);
  const long H = s.H, blocks = (H + NR - 1) / NR;
  const int64_t size = 1, start = 0;
  const Operand from = operand(layer.w_ih, unknown.count, x, layer.w_ih.K, own.rounded, own.steps);
  own.share(id, threads, barrier, blocks, [&](long p) { project_panel(s, layer, Q, unknown, from, p, own.products); });
  for (long t = 0; t < n; t++) {
    Pass l{};
    l.cell = cell, l.T = 1, l.H = H, l.sizes = &size, l.starts = &start, l.b_hn = layer.b_hn;
    l.h0 = h + t * H, l.c0 = c + t * H, l.gates = s.gates + t * Q * H, l.h = s.h_now, l.c = s.c_now;
    l.h_n = h + (t + 1) * H, l.c_n = c + (t + 1) * H;
    const Steps steps{l};
    const Operand from_state = operand(layer.w_hh, 1, l.h0, H, own.rounded_state, own.steps_state);
    own.share(id, threads, barrier, blocks, [&](long p) {
      panel_products(layer.w_hh, p, blocks, Q, 1, from_state, own.products);
      for (long v = 0; v < NR && p * NR + v < H; v += VL)
        forward_unit<cell>(l, steps, 0, 0, p * NR + v, H - p * NR - v, own.products + v, NR);
    });
  }
}

inline void advance_any(int id, int threads, Barrier& barrier, const Stack& s, const StackedLayer& layer, const Unknown& unknown,
                        long n, const float* x, float* h, float* c, Own& own) {
  switch (s.cell) {
    case TANH: return advance_layer<TANH>(id, threads, barrier, s, layer, unknown, n, x, h, c, own);
    case RELU: return advance_layer<RELU>(id, threads, barrier, s, layer, unknown, n, x, h, c, own);
    case SIGMOID: return advance_layer<SIGMOID>(id, threads, barrier, s, layer, unknown, n, x, h, c, own);
    case LSTM: return advance_layer<LSTM>(id, threads, barrier, s, layer, unknown, n, x, h, c, own);
    default: return advance_layer<GRU>(id, threads, barrier, s, layer, unknown, n, x, h, c, own);
  }
}

// Draws tokens (length) of one sequence from the distribution that `generate` draws from, at less cost where weights come from
// memory: `draft`, the same model in bytes, goes ahead, and `s` judges as many of its tokens as s.B at a time, so that its
// weights are read once for all of them. judging: (length, 2) more random numbers.
//
// s.logits are (s.B + 1, V): the first row those of the next token, before and after. The states of `s` are (layers, s.B + 1,
// H), the first rows those before and after. Those of `draft`, whose B is 1, are scratch, and so are its logits, (s.B, V).
inline void generate_ahead(const Stack& s, const Stack& draft, const Drawing& d, const float* judging, long length,
                           int64_t* tokens) {
  const long most = s.B, H = s.H, one = (most + 1) * H, V = s.V;
  const bool has_c = s.cell == LSTM;
  const auto row = [&](long i) { return s.logits + i * V; };
  Rounds rounds;
  with_own(draft, [&](int id, int threads, Barrier& barrier, Own& own_draft) {
    Own own = own_of(s, id, rounds);
    long at = 0;                 // the row of logits that are those of the next token
    int64_t next = -1;           // that token, where it is known
    for (long done = 0; done < length;) {
      const long n = std::min(most, length - done);
      int64_t* drawn = tokens + done;
      if (id == 0) drawn[0] = next >= 0 ? next : draw(row(at), V, d, d.uniform[done]);
      const Part layers(s.layers, id, threads);
      for (long i = layers.begin; i < layers.end; i++) {
        std::memcpy(draft.h + i * H, s.h + i * one, H * sizeof(float));
        if (has_c) std::memcpy(draft.c + i * H, s.c + i * one, H * sizeof(float));
      }
      barrier.wait();
      for (long i = 0; i + 1 < n; i++) {
        const Unknown unknown = enter_tokens(id, threads, barrier, draft, drawn + i, own_draft);
        Stack one_step = draft;
        one_step.logits = draft.logits + i * V;
        step_stack(id, threads, barrier, one_step, unknown, static_cast<int>(i % 2), own_draft);
        if (id == 0) drawn[i + 1] = draw(one_step.logits, V, d, d.uniform[done + i + 1]);
        barrier.wait();
      }
      Stack all = s;
      all.B = n;
      const Unknown unknown = enter_tokens(id, threads, barrier, all, drawn, own);
      const float* x = s.x;
      for (long i = 0; i < s.layers; i++) {
        advance_any(id, threads, barrier, all, s.stacked[i], i == 0 ? unknown : Unknown{nullptr, nullptr, n}, n, x,
                    s.h + i * one, s.c + i * one, own);
        if (i == 0) remember(id, s, drawn, n);
        x = s.h + i * one + H;
      }
      all.logits = row(1);
      decode(id, threads, barrier, all, x, own);
      // All of them at once, since nearly all are as they were drafted; the last one's are for the next round.
      const Part checked(n - 1, id, threads);
      for (long i = checked.begin; i < checked.end; i++)
        s.checked[i] = judge(row(i + 1), draft.logits + i * V, V, d, drawn[i + 1], judging + 2 * (done + i + 1));
      barrier.wait();
      long kept = 1;
      while (kept < n && s.checked[kept - 1] == drawn[kept]) kept++;
      next = kept < n ? s.checked[kept - 1] : -1;
      at = n;
      done += kept;
      for (long i = layers.begin; i < layers.end; i++) {
        std::memcpy(s.h + i * one, s.h + i * one + kept * H, H * sizeof(float));
        if (has_c) std::memcpy(s.c + i * one, s.c + i * one + kept * H, H * sizeof(float));
      }
      barrier.wait();
    }
    if (id == 0 && length > 0) std::memcpy(row(0), row(at), V * sizeof(float));
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
