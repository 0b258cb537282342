// The recurrent steps of a layer, forward and backward in time.
//
// Each thread owns a range of panels of hidden units, takes some of the slower ones' where it is done, and meets the others at
// one barrier a time step. The recurrent weights are packed into panels once. The gates of NR units are computed while their
// products are still in the cache.
#pragma once

#include <algorithm>

#include "pass.h"
#include "product.h"

namespace regrnn {
namespace REGRNN_ISA {

// The order of the steps: rows of step s are those of time t(s), rows [start, start + size) of a packed batch.
struct Steps {
  const Pass& layer;
  long t(long s) const { return layer.reverse ? layer.T - 1 - s : s; }
  long size(long s) const { return s < 0 || s >= layer.T ? 0 : layer.sizes[t(s)]; }
  long start(long s) const { return layer.starts[t(s)]; }
  const float* mask(long s, long b) const {
    if (layer.mask == nullptr) return nullptr;
    return layer.mask + (layer.mask_packed ? (start(s) + b) * layer.H : t(s) * layer.mask_t + b * layer.mask_b);
  }
  // The state that step s starts from in row b: of the step before, or, for a row that begins here, the first one.
  const float* before(const float* states, const float* first, long s, long b) const {
    return b < size(s - 1) ? states + (start(s - 1) + b) * layer.H : first + b * layer.H;
  }
};

// A thread's share of the panels of hidden units. Where the threads do not divide them, neighbours share a panel and
// divide its rows at every step.
struct Share {
  const long panels, id, threads;
  long first() const { return panels * id / threads; }
  long end() const { return (panels * (id + 1) + threads - 1) / threads; }
  // Of `rows` rows of panel p, the first that is this thread's, and the end of them.
  long begin_row(long p, long rows) const { return rows * std::max(panels * id - p * threads, 0L) / threads; }
  long end_row(long p, long rows) const {
    return rows * std::min(panels * (id + 1) - p * threads, threads) / threads;
  }
  bool packs(long p) const { return p * threads >= panels * id; }
  // Whether there is such a panel and nobody else has a part in it.
  bool whole(long p) const { return packs(p) && (p + 1) * threads <= panels * (id + 1); }

  // Panels [p, p + n): the i-th of the share's, `most` at a time where that many are whole.
  struct Panels {
    long p, n;
  };
  Panels panels_at(long i, long most) const {
    const long wide = middle() / most;
    if (i < head()) return {first(), 1};
    if (i < head() + wide) return {first() + head() + (i - head()) * most, most};
    return {first() + head() + wide * most + (i - head() - wide), 1};
  }
  // How many of these there are.
  long count(long most) const { return head() + middle() / most + middle() % most + tail(); }

 private:
  // Panels at the beginning and at the end that are not whole, and those that are.
  long head() const { return first() < end() && !whole(first()); }
  long tail() const { return end() - first() > head() && !whole(end() - 1); }
  long middle() const { return end() - first() - head() - tail(); }
};

// The shares of all threads, step after step.
class Shares {
 public:
  explicit Shares(long units) : panels((units + NR - 1) / NR) {}

  const long panels;

  // Calls visit(share, p, n, next) for panels [p, p + n) of a share, `next` being the one after them. Steps are counted from
  // 0, and there is a barrier between them. Every other step goes back from the end, so that it begins with what the caches
  // still have of the weights.
  template <class Visit>
  void each(int id, int threads, long step, long most, const Visit& visit) {
    const auto count = [&](int whose) { return Share{panels, whose, threads}.count(most); };
    steps_.each(id, threads, step, count, [&](int whose, long i) {
      const Share share{panels, whose, threads};
      const long last = share.count(most) - 1, at = step % 2 == 0 ? i : last - i;
      const Share::Panels now = share.panels_at(at, most);
      visit(share, now.p, now.n, share.panels_at(step % 2 == 0 ? std::min(at + 1, last) : std::max(at - 1, 0L), most).p);
    });
  }

 private:
  Rounds steps_;
};

// The step of VL units from j of one row; u is their recurrent product, one gate `gate_stride` after the other.
template <int cell>
REGRNN_INLINE void forward_unit(const Pass& l, const Steps& steps, long s, long b, long j, long width, const float* u,
                                long gate_stride) {
  const long row = steps.start(s) + b, H = l.H;
  const bool last = s + 1 == l.T || b >= steps.size(s + 1);
  float* g = l.gates + row * gates_of(cell) * H + j;
  vf h;
  if (cell == LSTM) {
    const vf i = sigmoid(load_some(g, width) + load(u));
    const vf f = sigmoid(load_some(g + H, width) + load(u + gate_stride));
    const vf z = tanh(load_some(g + 2 * H, width) + load(u + 2 * gate_stride));
    const vf o = sigmoid(load_some(g + 3 * H, width) + load(u + 3 * gate_stride));
    const vf c = f * load_some(steps.before(l.c, l.c0, s, b) + j, width) + i * z;
    h = o * tanh(c);
    store_some(g, i, width);
    store_some(g + H, f, width);
    store_some(g + 2 * H, z, width);
    store_some(g + 3 * H, o, width);
    store_some(l.c + row * H + j, c, width);
    if (last) store_some(l.c_n + b * H + j, c, width);
  } else if (cell == GRU) {
    const vf r = sigmoid(load_some(g, width) + load(u));
    const vf z = sigmoid(load_some(g + H, width) + load(u + gate_stride));
    vf n = load(u + 2 * gate_stride);
    if (l.b_hn != nullptr) n += load_some(l.b_hn + j, width);
    store_some(l.c + row * H + j, n, width);
    n = tanh(load_some(g + 2 * H, width) + r * n);
    h = n + z * (load_some(steps.before(l.h, l.h0, s, b) + j, width) - n);
    store_some(g, r, width);
    store_some(g + H, z, width);
    store_some(g + 2 * H, n, width);
  } else {
    const vf a = load_some(g, width) + load(u);
    h = cell == TANH ? tanh(a) : cell == RELU ? (a < vf{} ? vf{} : a) : sigmoid(a);
  }
  store_some(l.h + row * H + j, h, width);
  if (last) store_some(l.h_n + b * H + j, h, width);
}

// Asks for the gates of units [p NR, p NR + NR) of `rows` rows of step s from b0 on: `forward_unit` adds to them, and they
// come from memory, which takes as long as their product.
template <int cell>
REGRNN_INLINE void ask_for_gates(const Pass& l, const Steps& steps, long s, long b0, long rows, long p) {
  constexpr int Q = gates_of(cell);
  const float* g = l.gates + (steps.start(s) + b0) * Q * l.H + p * NR;
  for (long r = 0; r < rows; r++)
    for (int q = 0; q < Q; q++, g += l.H)
      for (long j = 0; j < NR; j += 16) fetch_to_write(g + j);
}

// Asks for all that `forward_unit` and `enter` work on in those units of one row: their product has meanwhile pushed it out of
// the first-level cache.
template <int cell>
REGRNN_INLINE void ask_for_row(const Pass& l, const Steps& steps, long s, long b, bool goes_on, long p) {
  constexpr int Q = gates_of(cell);
  const long row = steps.start(s) + b, H = l.H;
  for (long j = p * NR; j < (p + 1) * NR; j += 16) {
    for (int q = 0; q < Q; q++) fetch_to_write(l.gates + row * Q * H + q * H + j);
    fetch_to_write(l.h + row * H + j);
    if (cell == LSTM || cell == GRU) fetch_to_write(l.c + row * H + j);
    if (goes_on) fetch_to_write(l.entering + (steps.start(s + 1) + b) * H + j);
  }
}

// Copies the units of one panel, from j, of a row of states into what step s multiplies, through its mask.
inline void enter(const Pass& l, const Steps& steps, long s, long b, const float* state, long j) {
  float* out = l.entering + (steps.start(s) + b) * l.H;
  const float* mask = steps.mask(s, b);
  for (const long end = std::min(j + NR, l.H); j < end; j += VL) {
    const vf x = load_some(state + j, l.H - j);
    store_some(out + j, mask == nullptr ? x : x * load_some(mask + j, l.H - j), l.H - j);
  }
}

// All steps; the gates hold the input's part.
template <int cell>
void forward_cell(const Pass& l, Shares& shares, int id, int threads, Barrier& barrier) {
  const Steps steps{l};
  const int Q = gates_of(cell);
  const long H = l.H, T = l.T;
  const Share share{shares.panels, id, threads};
  const long panel_of_gate = panel_floats(H), panel = Q * panel_of_gate;
  Held held;
  alignas(64) float u[4 * STEP_ROWS * NR];
  for (long p = share.first(); p < share.end(); p++) {
    if (!share.packs(p)) continue;
    for (int q = 0; q < Q; q++) {
      const ByColumns w{l.w_hh + q * H * H, H, H};
      pack_panel(w, p, 0, H, l.packed + p * panel + q * panel_of_gate);
    }
    for (long b = 0; b < steps.size(0); b++) enter(l, steps, 0, b, l.h0 + b * H, p * NR);
  }
  barrier.wait();
  for (long s = 0; s < T; s++) {
    const long size = steps.size(s), coming = steps.size(s + 1);
    shares.each(id, threads, s, 1, [&](const Share& share, long p, long, long next) {
      const float* after = l.packed + next * panel;
      const long end = share.end_row(p, size);
      for (long b0 = share.begin_row(p, size); b0 < end; b0 += STEP_ROWS) {
        const long rows = std::min(STEP_ROWS, end - b0);
        ask_for_gates<cell>(l, steps, s, b0, rows, p);
        products(held, l.packed + p * panel, Q, H, rows, l.entering + (steps.start(s) + b0) * H, H, u, after,
                 H - p * NR);
        for (long r = 0; r < rows; r++) {
          constexpr long AHEAD = 4;
          ask_for_row<cell>(l, steps, s, b0 + r + AHEAD, b0 + r + AHEAD < coming, p);
          for (long v = 0; v < NR && p * NR + v < H; v += VL)
            forward_unit<cell>(l, steps, s, b0 + r, p * NR + v, H - p * NR - v, u + r * NR + v, rows * NR);
          const long b = b0 + r;
          if (b < coming) enter(l, steps, s + 1, b, l.h + (steps.start(s) + b) * H, p * NR);
        }
      }
      if (share.packs(p))  // rows that begin with the next step
        for (long b = size; b < coming; b++) enter(l, steps, s + 1, b, l.h0 + b * H, p * NR);
    });
    barrier.wait();
  }
}

// The gradient at the gates of one row of one step, from that at its h (and, of an LSTM, at its c).
//
// `carry` of an LSTM is the gradient at c; of a GRU the part of that at h which goes past the recurrent product.
template <int cell>
REGRNN_INLINE void backward_unit(const Pass& l, const Steps& steps, long s, long b, long j, long width, vf dh) {
  const long row = steps.start(s) + b, H = l.H;
  const float* g = l.gates + row * gates_of(cell) * H + j;
  float* d = l.d_gates + row * gate_gradients_of(cell) * H + j;
  float* carry = l.carry + b * H + j;
  if (cell == LSTM) {
    const vf i = load_some(g, width), f = load_some(g + H, width), z = load_some(g + 2 * H, width),
             o = load_some(g + 3 * H, width);
    const vf t = tanh(load_some(l.c + row * H + j, width));
    const vf dc = load_some(carry, width) + dh * o * (1.f - t * t);
    store_some(d, dc * z * i * (1.f - i), width);
    store_some(d + H, dc * load_some(steps.before(l.c, l.c0, s, b) + j, width) * f * (1.f - f), width);
    store_some(d + 2 * H, dc * i * (1.f - z * z), width);
    store_some(d + 3 * H, dh * t * o * (1.f - o), width);
    store_some(carry, dc * f, width);
  } else if (cell == GRU) {
    const vf r = load_some(g, width), z = load_some(g + H, width), n = load_some(g + 2 * H, width);
    const vf dn = dh * (1.f - z) * (1.f - n * n);
    store_some(d, dn * load_some(l.c + row * H + j, width) * r * (1.f - r), width);
    store_some(d + H, dh * (load_some(steps.before(l.h, l.h0, s, b) + j, width) - n) * z * (1.f - z), width);
    store_some(d + 2 * H, dn, width);
    store_some(d + 3 * H, dn * r, width);
    store_some(carry, dh * z, width);
  } else {
    const vf h = load_some(l.h + row * H + j, width);
    store_some(d, cell == TANH ? dh * (1.f - h * h) : cell == RELU ? (h > vf{} ? dh : vf{}) : dh * h * (1.f - h),
               width);
  }
}

// Asks for units [p NR, p NR + NR) of `rows` rows of states from `row` on.
REGRNN_INLINE void ask_for_states(const Pass& l, const float* states, long row, long rows, long p) {
  const float* from = states + row * l.H + p * NR;
  for (long r = 0; r < rows; r++, from += l.H)
    for (long j = 0; j < NR; j += 16) fetch(from + j);
}

// Asks for what `backward_unit` needs of those units and rows; c[t] of an LSTM was needed by the step before.
template <int cell>
REGRNN_INLINE void ask_for_step(const Pass& l, const Steps& steps, long s, long b0, long rows, long p) {
  const long row = steps.start(s) + b0, begun = std::min(rows, steps.size(s - 1) - b0);
  if (cell == LSTM || cell == GRU) ask_for_gates<cell>(l, steps, s, b0, rows, p);
  if (l.d_h != nullptr) ask_for_states(l, l.d_h, row, rows, p);
  if (cell == GRU) ask_for_states(l, l.c, row, rows, p);
  if (cell != LSTM && cell != GRU) ask_for_states(l, l.h, row, rows, p);
  if (cell == LSTM && begun > 0) ask_for_states(l, l.c, steps.start(s - 1) + b0, begun, p);
  if (cell == GRU && begun > 0) ask_for_states(l, l.h, steps.start(s - 1) + b0, begun, p);
}

// The gradients at the gates of all steps and at the first states.
template <int cell>
void backward_cell(const Pass& l, Shares& shares, int id, int threads, Barrier& barrier) {
  const Steps steps{l};
  const int Q = gates_of(cell);
  const long H = l.H, T = l.T, K = Q * H, ld = gate_gradients_of(cell) * H;
  const Share share{shares.panels, id, threads};
  // Of a GRU two products, with the weights at r and z and with those at the product that r multiplies.
  const long K1 = cell == GRU ? 2 * H : K, K2 = K - K1;
  const long panel = panel_floats(K1) + panel_floats(K2), second_part = panel_floats(K1);
  Held held;
  alignas(64) float u[2 * STEP_ROWS * NR];  // of two panels, or of the two products of a GRU
  const ByRows w{l.w_hh, H, H};
  for (long p = share.first(); p < share.end(); p++) {
    if (!share.packs(p)) continue;
    pack_panel(w, p, 0, K1, l.packed + p * panel);
    if (K2 > 0) pack_panel(w, p, K1, K2, l.packed + p * panel + second_part);
  }
  barrier.wait();
  // Of a gradient that is zero where it is null.
  const auto of = [&](const float* d, long row, long j, long width) {
    return d == nullptr ? vf{} : load_some(d + row * H + j, width);
  };
  // After step s: the gradient that leaves it for the states before it, of `wide` panels from p on.
  auto leaving = [&](long s, long p, int wide, long next, long b0, long rows) {
    const float *first_part = l.packed + p * panel, *after = l.packed + next * panel;
    const float* d = l.d_gates + (steps.start(s) + b0) * ld;
    if (cell == GRU) {
      float* second = u + STEP_ROWS * NR;
      products(held, first_part, 1, K1, rows, d, ld, u, first_part + second_part, H - p * NR);
      products(held, first_part + second_part, 1, K2, rows, d + 3 * H, ld, second, after, H - p * NR);
      for (long i = 0; i < rows * NR; i++) u[i] += second[i];
    } else {
      products(held, first_part, wide, K, rows, d, ld, u, after, H - p * NR);
    }
    for (long r = 0; r < rows; r++) {
      const float* mask = steps.mask(s, b0 + r);
      if (mask == nullptr) continue;
      for (int w = 0; w < wide; w++) {
        const long j = (p + w) * NR, width = std::min<long>(NR, H - j);
        for (long i = 0; i < width; i++) u[(w * rows + r) * NR + i] *= mask[j + i];
      }
    }
  };
  for (long s = T; s-- > -1;) {
    // Rows that step s + 1 sends back: to step s, or, where a row began there, to the first state.
    const long sent = steps.size(s + 1), size = steps.size(s), most = std::max(sent, size);
    shares.each(id, threads, T - 1 - s, cell == GRU ? 1 : PAIR, [&](const Share& share, long p, long wide, long next) {
      const long end = share.end_row(p, most);
      for (long b0 = share.begin_row(p, most); b0 < end; b0 += STEP_ROWS) {
        const long rows = std::min(STEP_ROWS, end - b0);
        const long with = std::min(std::max(sent - b0, 0L), rows);
        for (long w = 0; w < wide && b0 < size; w++)
          ask_for_step<cell>(l, steps, s, b0, std::min(rows, size - b0), p + w);
        if (with > 0) leaving(s + 1, p, static_cast<int>(wide), next, b0, with);
        for (long r = 0; r < rows; r++)
          for (long v = 0; v < wide * NR; v += VL) {
            const long b = b0 + r, j = p * NR + v, width = H - j;
            if (width <= 0) break;
            float* carry = l.carry + b * H + j;
            vf dh = {};
            if (b < sent) {
              dh = load(u + (v / NR * with + r) * NR + v % NR);
              if (cell == GRU) dh += load_some(carry, width);
            } else {  // the row ends with step s
              dh = of(l.d_h_n, b, j, width);
              if (cell == LSTM) store_some(carry, of(l.d_c_n, b, j, width), width);
            }
            if (b < size) {
              dh += of(l.d_h, steps.start(s) + b, j, width);
              backward_unit<cell>(l, steps, s, b, j, width, dh);
            } else {
              store_some(l.d_h0 + b * H + j, dh, width);
              if (cell == LSTM) store_some(l.d_c0 + b * H + j, load_some(carry, width), width);
            }
          }
      }
    });
    barrier.wait();
  }
}

inline void recurrent_forward(const Pass& l, Shares& shares, int id, int threads, Barrier& barrier) {
  switch (l.cell) {
    case TANH: return forward_cell<TANH>(l, shares, id, threads, barrier);
    case RELU: return forward_cell<RELU>(l, shares, id, threads, barrier);
    case SIGMOID: return forward_cell<SIGMOID>(l, shares, id, threads, barrier);
    case LSTM: return forward_cell<LSTM>(l, shares, id, threads, barrier);
    default: return forward_cell<GRU>(l, shares, id, threads, barrier);
  }
}

inline void recurrent_backward(const Pass& l, Shares& shares, int id, int threads, Barrier& barrier) {
  switch (l.cell) {
    case TANH: return backward_cell<TANH>(l, shares, id, threads, barrier);
    case RELU: return backward_cell<RELU>(l, shares, id, threads, barrier);
    case SIGMOID: return backward_cell<SIGMOID>(l, shares, id, threads, barrier);
    case LSTM: return backward_cell<LSTM>(l, shares, id, threads, barrier);
    default: return backward_cell<GRU>(l, shares, id, threads, barrier);
  }
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
