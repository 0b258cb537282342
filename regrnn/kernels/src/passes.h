// A layer's passes: the products with its input, its recurrent steps, and the gradients of its weights, in one coming together
// of the threads.
#pragma once

#include "pass.h"
#include "recurrent.h"
#include "separate.h"
#include "shared.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long LARGE = 2048;  // more rows of a batch than these are worked on in parts

// c (N, M) = (turned (M, K) b (K, N; rows ldb apart))^T, and the column sums of b (N) into sums and sums2 unless null.
// Scratch: waiting (ceil(N / NR) NR, M), used where K > LARGE.
inline void outer(int id, int threads, Turns& turns, long M, long N, long K, const float* turned, const float* b, long ldb,
                  float* c, float* sums, float* sums2, float* waiting) {
  Held held;
  const Rows a{turned, K};
  const ByRows rows{b, ldb, N};
  const IntoColumns into{c, M, N, sums, sums2};
  if (K > LARGE)
    multiply_deep(id, threads, M, N, K, a, rows, into, waiting, held);
  else
    multiply(id, threads, M, N, K, a, rows, into, held, &turns);
}

// The masks that a layer's input has still to pass.
class InputMasks {
 public:
  InputMasks(const Layer& l, Scratch& room)
      : separately(l.x_mask != nullptr && l.first == nullptr),
        together(l.first != nullptr),
        separate(separately ? l.N : 0, separately ? l.I : 0, l.x_mask, static_cast<int>(l.threads), room) {
    if (together)
      shared = {l.groups, l.N, l.I, l.first, l.x_mask, room.take<int32_t>(l.groups * l.I), room.take<int32_t>(l.groups)};
    own_ = room.take(together ? l.threads * own_floats(shared) : 0);
    if (together && l.scratch != nullptr) list_kept(shared);
  }

  float* own(int id) const { return own_ + id * own_floats(shared); }

  const bool separately, together;  // each row has its own, or groups of rows share one
  Separate separate;
  Shared shared = {};

 private:
  float* own_;
};

class ForwardPass {
 public:
  explicit ForwardPass(const Layer& l)
      : room_(l.scratch),
        pass_(l, room_, false),
        masks_(l, room_),
        compacted_(room_.take(masks_.together ? l.N * l.I : 0)),
        shares_(l.H) {}

  // Of scratch, and of what the backward pass needs.
  long floats() const { return room_.floats(); }
  long kept_floats() const { return pass_.kept_floats(); }

  void run() {
    parallel(static_cast<int>(pass_.threads), [&](int id, int threads, Barrier& barrier) {
      project(id, threads, barrier);
      recurrent_forward(pass_, shares_, id, threads, barrier);
    });
  }

 private:
  // gates = D(x) w_ih^T + b
  void project(int id, int threads, Barrier& barrier) {
    const Pass& l = pass_;
    const long K = l.I, G = gates_of(static_cast<int>(l.cell)) * l.H;
    const ByColumns w{l.w_ih, K, G};
    const IntoRows into{l.gates, G, G, l.b_ih, l.b_input};
    if (masks_.separately) {
      masks_.separate.keep(id, threads, l.x);
      barrier.wait();
      masks_.separate.multiply(id, &turns_, G, w, into);
    } else if (masks_.together) {
      compact(id, threads, masks_.shared, l.x, compacted_);
      barrier.wait();
      shared_multiply(&turns_, masks_.shared, G, compacted_, w, into, masks_.own(id));
    } else {
      Held held;
      multiply(id, threads, l.N, G, K, Rows{l.x, K}, w, into, held, &turns_);
    }
  }

  Scratch room_;
  const Pass pass_;
  const InputMasks masks_;
  float* compacted_;
  Shares shares_;
  Turns turns_;
};

class BackwardPass {
 public:
  explicit BackwardPass(const Layer& l)
      : room_(l.scratch),
        pass_(l, room_, true),
        masks_(l, room_),
        turned_x_(room_.take(masks_.separately ? 0 : l.I * l.N)),
        turned_h_(room_.take(l.H * l.N)),
        turned_w_(room_.take(l.wants_x && masks_.together ? l.I * DOT_DEPTH : 0)),
        waiting_x_(room_.take(!l.wants_x || masks_.separately ? 0
                              : masks_.together               ? (l.N + l.groups * DOT_ROWS) * l.I
                                                              : (l.I + NR - 1) / NR * NR * l.N)),
        shares_(l.H) {
    const long widest = std::max(l.I, l.H);
    waiting_ = room_.take(l.N > LARGE ? (gates_of(static_cast<int>(l.cell)) * l.H + NR - 1) / NR * NR * widest : 0);
  }

  long floats() const { return room_.floats(); }

  void run() {
    const Pass& l = pass_;
    const long N = l.N, I = l.I, H = l.H, G = gates_of(static_cast<int>(l.cell)) * H;
    const bool gru = l.cell == GRU;
    const Rows d{l.d_gates, gate_gradients_of(static_cast<int>(l.cell)) * H};
    const ByRows as_factor{d.p, d.ld, G};
    // Both biases have the same gradient, but for a GRU's.
    const IntoColumns into_w_ih{l.d_w_ih, I, G, l.d_b_ih, gru ? nullptr : l.d_b_hh};
    parallel(static_cast<int>(l.threads), [&](int id, int threads, Barrier& barrier) {
      recurrent_backward(l, shares_, id, threads, barrier);
      if (masks_.separately)
        masks_.separate.keep_for_gradients(id, threads, l.wants_x, l.x, nullptr, 1.f);
      else if (masks_.together)
        compact_turned(id, threads, masks_.shared, l.x, nullptr, 1.f, turned_x_);
      else
        transpose(id, threads, l.x, N, I, I, nullptr, 1.f, turned_x_);
      transpose(id, threads, l.entering, N, H, H, nullptr, 1.f, turned_h_);
      barrier.wait();
      // Of `waiting_` there is one.
      const auto gradient = [&](int i, const float* turned, long width, long column, long columns, float* w, float* sums,
                                float* sums2) {
        if (N > LARGE) barrier.wait();
        outer(id, threads, turns_[i], width, columns, N, turned, d.p + column, d.ld, w, sums, sums2, waiting_);
      };
      if (masks_.separately) {
        if (l.wants_x) masks_.separate.input_gradient(id, threads, barrier, G, l.w_ih, d, nullptr, 1.f, l.d_x);
        masks_.separate.weight_gradient(id, G, as_factor, into_w_ih);
      } else if (masks_.together) {
        if (l.wants_x)
          shared_input_gradient(id, threads, masks_.shared, G, l.w_ih, d, nullptr, 1.f, l.d_x, turned_w_, waiting_x_);
        shared_weight_gradient(turns_[0], masks_.shared, G, turned_x_, as_factor, into_w_ih, masks_.own(id));
      } else {
        Held held;
        if (l.wants_x)
          multiply_deep(id, threads, N, I, G, d, ByRows{l.w_ih, I, I}, IntoRows{l.d_x, I, I}, waiting_x_, held);
        gradient(0, turned_x_, I, 0, G, l.d_w_ih, l.d_b_ih, gru ? nullptr : l.d_b_hh);
      }
      if (!gru) return gradient(1, turned_h_, H, 0, G, l.d_w_hh, nullptr, nullptr);
      const long reset = 2 * H;
      gradient(1, turned_h_, H, 0, reset, l.d_w_hh, l.d_b_hh, nullptr);
      gradient(2, turned_h_, H, 3 * H, H, l.d_w_hh + reset * H, l.d_b_hh == nullptr ? nullptr : l.d_b_hh + reset, nullptr);
    });
  }

 private:
  Scratch room_;
  const Pass pass_;
  InputMasks masks_;
  float *turned_x_, *turned_h_, *turned_w_, *waiting_x_, *waiting_;
  Shares shares_;
  Turns turns_[3];
};

}  // namespace REGRNN_ISA
}  // namespace regrnn
