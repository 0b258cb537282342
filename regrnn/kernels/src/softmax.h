// Output projection, softmax and cross-entropy of N rows over V classes.
//
// The logits lie panel by panel, [V / NR][N][NR]: what the product writes and what both products of the backward pass
// read is contiguous so. They are never normalised. With e = exp(logit - m) for some m of the row and Z the row's sum of e,
// the gradient at the logits is (e - Z at the target) / Z, and 1 / Z is a factor of the rows of smaller
// matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "product.h"
#include "separate.h"
#include "shared.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long GROUPS = 64;  // of panels whose sums are made apart, so that they do not depend on the threads

// The panels of group g of `panels`, which only the last one cuts in the middle of a `unit`.
struct Group {
  long begin, end;
  Group(long panels, long unit, long g) {
    const long units = (panels + unit - 1) / unit;
    begin = std::min(panels, units * g / GROUPS * unit);
    end = std::min(panels, units * (g + 1) / GROUPS * unit);
  }
};

// The bias of one panel; columns beyond V become -infinity, so that they count nowhere.
struct Offsets {
  alignas(64) float values[NR];
  Offsets(const float* bias, long j, long V) {
    for (int v = 0; v < NR; v += VL) store(values + v, bias == nullptr ? vf{} : load_some(bias + j + v, V - j - v));
    for (long i = V - j; i < NR; i++) values[i] = -std::numeric_limits<float>::infinity();
  }
  vf operator[](int v) const { return load(values + v); }
};

// The largest logits, by lanes.
struct IntoLargest {
  static constexpr bool wants_sums = false;
  static constexpr bool takes_half = false;
  const float* bias;
  long V;
  float* most;  // [N][NR], this thread's

  void ask(long, long, long, long) const {}
  void operator()(long panel, long row0, long rows, const float* values) const {
    const Offsets offsets(bias, panel * NR, V);
    for (long r = 0; r < rows; r++)
      for (int v = 0; v < NR; v += VL) {
        float* top = most + (row0 + r) * NR + v;
        store(top, max(load(values + r * NR + v) + offsets[v], load(top)));
      }
  }
};

// exp(logit - m) into panels from `first` on, unless e is null, and their sums. The target is kept apart, with 0 in its
// place, so that the gradient there, minus the others' share, is exact where it is small.
struct IntoExponentials {
  static constexpr bool wants_sums = false;
  static constexpr bool takes_half = false;
  const float* bias;
  long V, N, first;
  const float* m;          // [N]
  const int64_t* targets;  // [N]
  float* e;
  float* lanes;            // [N][VL], this thread's: sums
  float* target_logits;    // [N]

  void ask(long panel, long panels, long row0, long rows) const {
    if (e == nullptr) return;
    for (long w = first + panel; w < first + panel + panels; w++)
      for (long i = 0; i < rows * NR; i += 16) fetch_to_write(e + (w * N + row0) * NR + i);
  }
  void operator()(long panel, long row0, long rows, const float* values) const {
    const long j = (first + panel) * NR;
    const Offsets offsets(bias, j, V);
    const vf b0 = offsets[0], b1 = offsets[VL];
    for (long r = 0; r < rows; r++) {
      const vf x0 = load(values + r * NR) + b0, x1 = load(values + r * NR + VL) + b1, mr = splat(m[row0 + r]);
      vf e0 = exp(x0 - mr), e1 = exp(x1 - mr);
      const long t = targets[row0 + r] - j;
      if (t >= 0 && t < NR) {
        target_logits[row0 + r] = values[r * NR + t] + offsets.values[t];
        float both[NR];
        store(both, e0);
        store(both + VL, e1);
        both[t] = 0;
        e0 = load(both);
        e1 = load(both + VL);
      }
      if (e != nullptr) {
        float* out = e + ((first + panel) * N + row0 + r) * NR;
        store(out, e0);
        store(out + VL, e1);
      }
      float* sum = lanes + (row0 + r) * VL;
      store(sum, load(sum) + (e0 + e1));
    }
  }
};

// e [panels][N][NR], inverse_z [N] (both of them or neither; else null) and the losses -log p [N]; returns their sum. Scratch:
// `most` (threads, N, NR), m (N), sums (GROUPS, N); under a mask on h, `scratch`: if it is shared, (N, H) in whole cache lines +
// (threads, own_floats); if each row has its own, (N, H) at `separate`, the floats of `Separate`.
inline double softmax_forward(long N, long H, long V, const float* h, const float* w, const float* bias,
                              const int64_t* targets, float* e, float* inverse_z, float* losses, float* most, float* m,
                              float* sums, const Shared* shared, const float* separate, float* scratch, int threads) {
  const long panels = (V + NR - 1) / NR, unit = separate == nullptr ? 1 : ABREAST;
  Scratch room(separate == nullptr ? nullptr : scratch);
  const Separate kept(N, H, separate, threads, room);
  Turns tops[2], groups[2];
  std::atomic<bool> far{false};
  if (shared != nullptr) list_kept(*shared);
  parallel(threads, [&](int id, int n, Barrier& barrier) {
    float* mine = most + id * N * NR;
    const Part rows(N, id, n);
    Held held;
    // The product with the classes from `from` on: what this thread gets of `turns`, or all where there are none.
    const auto logits = [&](Turns* turns, long from, long columns, const auto& sink) {
      const ByColumns source{w + from * H, H, columns};
      if (shared != nullptr)
        shared_multiply(turns, *shared, columns, scratch, source, sink,
                        scratch + whole_lines(N * H) + id * own_floats(*shared));
      else if (separate != nullptr)
        kept.multiply(id, turns, columns, source, sink);
      else
        multiply(turns == nullptr ? 0 : id, turns == nullptr ? 1 : n, N, columns, H, Rows{h, H}, source, sink, held, turns);
    };
    const auto largest_of = [&](Turns& turns, long columns) {
      std::fill(mine, mine + N * NR, -std::numeric_limits<float>::infinity());
      logits(&turns, 0, columns, IntoLargest{bias, V, mine});
      barrier.wait();
      for (long r = rows.begin; r < rows.end; r++) {
        vf top = load(most + r * NR);
        for (int t = 0; t < n; t++)
          for (int v = 0; v < NR; v += VL) top = max(load(most + (t * N + r) * NR + v), top);
        m[r] = largest(top);
      }
      barrier.wait();
    };
    const auto exponentials = [&](Turns& turns) {
      for (long g; (g = turns.next()) < GROUPS;) {
        const Group group(panels, unit, g);
        std::fill(mine, mine + N * VL, 0.f);
        if (group.begin < group.end)
          logits(nullptr, group.begin * NR, std::min(V, group.end * NR) - group.begin * NR,
                 IntoExponentials{bias, V, N, group.begin, m, targets, e, mine, losses});
        for (long r = 0; r < N; r++) sums[g * N + r] = sum(load(mine + r * VL));
      }
      barrier.wait();
      bool reached = true;
      for (long r = rows.begin; r < rows.end; r++) {
        double others = 0;
        for (long g = 0; g < GROUPS; g++) others += sums[g * N + r];
        const double target = static_cast<double>(losses[r]) - m[r], own = std::exp(target), z = others + own;
        reached &= !(z <= 1e-17 || z >= 1e30);  // what is not a number will not be one the next time either
        // Where the target is nearly certain, log z would lose what is left.
        losses[r] = static_cast<float>(others < own ? std::log1p(others / own) : std::log(z) - target);
        if (e == nullptr) continue;
        e[((targets[r] / NR) * N + r) * NR + targets[r] % NR] = static_cast<float>(-others);
        inverse_z[r] = static_cast<float>(1 / z);
      }
      if (!reached) far.store(true, std::memory_order_relaxed);
      barrier.wait();
    };
    if (shared != nullptr) compact(id, n, *shared, h, scratch);
    if (separate != nullptr) kept.keep(id, n, h);
    if (shared != nullptr || separate != nullptr) barrier.wait();
    // Any number near a row's largest logit serves as m: that of the first classes saves a pass over the logits.
    largest_of(tops[0], std::min<long>(NR, V));
    exponentials(groups[0]);
    if (!far.load(std::memory_order_relaxed)) return;
    largest_of(tops[1], V);
    exponentials(groups[1]);
  });
  double total = 0;
  for (long r = 0; r < N; r++) total += losses[r];
  return total;
}

// Gradients, `factor` times; each of d_h, d_w, d_bias may be null. Scratch: turned (H + 1, N), and waiting (panels of H, N,
// NR) for d_h; under a shared mask on h, instead of waiting, turned_w (H, DOT_DEPTH), dots
// (N + groups DOT_ROWS) H and own (threads, own_floats); if each row has its own, at `separate`, none but `own`, the floats of
// `Separate`.
inline void softmax_backward(long N, long H, long V, const float* h, const float* w, const float* e,
                             const float* inverse_z, float factor, float* d_h, float* d_w, float* d_bias, float* turned,
                             float* waiting, const Shared* shared, const float* separate, float* turned_w, float* dots,
                             float* own, int threads) {
  if (shared != nullptr) list_kept(*shared);
  Scratch room(separate == nullptr ? nullptr : own);
  Separate kept(N, H, separate, threads, room);
  Turns turns;
  parallel(threads, [&](int id, int n, Barrier& barrier) {
    const bool weights = d_w != nullptr || d_bias != nullptr;
    const IntoColumns sink{d_w, d_w == nullptr ? 0 : H, V, d_bias, nullptr, inverse_z, factor};
    const Rows rows{e, NR, N * NR};
    if (shared != nullptr) {
      if (weights) compact_turned(id, n, *shared, h, inverse_z, factor, turned);
      barrier.wait();
      if (d_h != nullptr)
        shared_input_gradient(id, n, *shared, V, w, rows, inverse_z, factor, d_h, turned_w, dots);
      if (weights)
        shared_weight_gradient(turns, *shared, V, turned, Ready{e, N}, sink,
                               own + id * own_floats(*shared));
      return;
    }
    if (separate != nullptr) {
      kept.keep_for_gradients(id, n, d_h != nullptr, weights ? h : nullptr, inverse_z, factor);
      barrier.wait();
      if (d_h != nullptr) kept.input_gradient(id, n, barrier, V, w, rows, inverse_z, factor, d_h);
      if (weights) kept.weight_gradient(id, V, Ready{e, N}, sink);
      return;
    }
    float* const last = turned + H * N;  // the row whose product is the gradient at the bias
    if (weights) transpose(id, n, h, N, H, H, inverse_z, factor, turned);
    for (long r = 0; id == 0 && r < N; r++) last[r] = inverse_z[r] * factor;
    barrier.wait();
    Held held;
    if (d_h != nullptr)
      multiply_deep(id, n, N, H, V, rows, ByRows{w, H, H}, IntoRows{d_h, H, H, nullptr, nullptr, inverse_z, factor}, waiting,
                    held);
    const IntoParts parts{sink, d_bias != nullptr};
    const Rows a{d_w == nullptr ? last : turned, N};
    if (weights) multiply(id, n, parts.rows(), V, N, a, Ready{e, N}, parts, held, &turns);
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
