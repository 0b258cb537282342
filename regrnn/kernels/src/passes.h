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

// (turned (M, K) b (K, N; rows ldb apart))^T, where `into` says, which has M rows. Scratch: waiting (ceil(N / NR) NR, M), used
// where K > LARGE.
inline void outer(int id, int threads, Turns& turns, long N, long K, const float* turned, const float* b, long ldb,
                  const IntoParts& into, float* waiting) {
  Held held;
  const Rows a{turned, K};
  const ByRows rows{b, ldb, N};
  if (K > LARGE)
    multiply_deep(id, threads, into.rows(), N, K, a, rows, into, waiting, held);
  else
    multiply(id, threads, into.rows(), N, K, a, rows, into, held, &turns);
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
        turned_(room_.take(((masks_.separately ? 0 : l.I) + 1 + l.H) * l.N)),
        turned_w_(room_.take(l.wants_x && masks_.together ? l.I * DOT_DEPTH : 0)),
        waiting_x_(room_.take(!l.wants_x || masks_.separately ? 0
                              : masks_.together               ? (l.N + l.groups * DOT_ROWS) * l.I
                                                              : (l.I + NR - 1) / NR * NR * l.N)),
        shares_(l.H) {
    const long most = l.I + 1 + l.H;
    waiting_ = room_.take(l.N > LARGE ? (gates_of(static_cast<int>(l.cell)) * l.H + NR - 1) / NR * NR * most : 0);
  }

  long floats() const { return room_.floats(); }

  void run() {
    const Pass& l = pass_;
    const long N = l.N, I = l.I, H = l.H, G = gates_of(static_cast<int>(l.cell)) * H;
    const bool gru = l.cell == GRU;
    const Rows d{l.d_gates, gate_gradients_of(static_cast<int>(l.cell)) * H};
    const ByRows as_factor{d.p, d.ld, G};
    // What d is multiplied by: x turned around, or nothing where it has masks of its own rows, then ones, then h turned around.
    float* const ones = turned_ + (masks_.separately ? 0 : I * N);
    float* const turned_h = ones + N;
    // Both biases have the same gradient, but for a GRU's.
    const IntoColumns into_w_ih{l.d_w_ih, I, G, l.d_b_ih, gru ? nullptr : l.d_b_hh};
    parallel(static_cast<int>(l.threads), [&](int id, int threads, Barrier& barrier) {
      recurrent_backward(l, shares_, id, threads, barrier);
      if (masks_.separately)
        masks_.separate.keep_for_gradients(id, threads, l.wants_x, l.x, nullptr, 1.f);
      else if (masks_.together)
        compact_turned(id, threads, masks_.shared, l.x, nullptr, 1.f, turned_);
      else
        transpose(id, threads, l.x, N, I, I, nullptr, 1.f, turned_);
      transpose(id, threads, l.entering, N, H, H, nullptr, 1.f, turned_h);
      if (id == 0) std::fill(ones, ones + N, 1.f);
      barrier.wait();
      const auto gradient = [&](int i, const float* turned, long column, long columns, const IntoParts& into) {
        if (N > LARGE) barrier.wait();  // there is one place to wait in
        outer(id, threads, turns_[i], columns, N, turned, d.p + column, d.ld, into, waiting_);
      };
      const bool masked = masks_.separately || masks_.together;
      if (masks_.separately) {
        if (l.wants_x) masks_.separate.input_gradient(id, threads, barrier, G, l.w_ih, d, nullptr, 1.f, l.d_x);
        masks_.separate.weight_gradient(id, G, as_factor, into_w_ih);
      } else if (masks_.together) {
        if (l.wants_x)
          shared_input_gradient(id, threads, masks_.shared, G, l.w_ih, d, nullptr, 1.f, l.d_x, turned_w_, waiting_x_);
        shared_weight_gradient(turns_[0], masks_.shared, G, turned_, as_factor, into_w_ih, masks_.own(id));
      } else if (l.wants_x) {
        Held held;
        multiply_deep(id, threads, N, I, G, d, ByRows{l.w_ih, I, I}, IntoRows{l.d_x, I, I}, waiting_x_, held);
      }
      if (!gru) {
        const IntoColumns into_w_hh{l.d_w_hh, H, G};
        if (masked) return gradient(1, turned_h, 0, G, {{nullptr, 0, G}, false, into_w_hh});
        return gradient(0, turned_, 0, G, {into_w_ih, true, into_w_hh});
      }
      // Of a GRU h is multiplied by r's, z's and the last quarter of d, x by r's, z's and n's.
      const long reset = 2 * H;
      float* const d_b_hn = l.d_b_hh == nullptr ? nullptr : l.d_b_hh + reset;
      if (masked) {
        gradient(1, ones, 0, reset, {{nullptr, 0, reset, l.d_b_hh}, true, {l.d_w_hh, H, reset}});
      } else {
        gradient(0, turned_, 0, reset, {{l.d_w_ih, I, reset, l.d_b_ih, l.d_b_hh}, true, {l.d_w_hh, H, reset}});
        float* const d_b_in = l.d_b_ih == nullptr ? nullptr : l.d_b_ih + reset;
        gradient(1, turned_, reset, H, {{l.d_w_ih + reset * I, I, H, d_b_in}, true});
      }
      gradient(2, ones, 3 * H, H, {{nullptr, 0, H, d_b_hn}, true, {l.d_w_hh + reset * H, H, H}});
    });
  }

 private:
  Scratch room_;
  const Pass pass_;
  InputMasks masks_;
  float *turned_, *turned_w_, *waiting_x_, *waiting_;
  Shares shares_;
  Turns turns_[3];
};

}  // namespace REGRNN_ISA
}  // namespace regrnn
