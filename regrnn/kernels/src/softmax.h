// Output projection, softmax and cross-entropy of N rows over V classes.
//
// The logits lie panel by panel, [V / NR][N][NR]: what the product writes and what both products of the backward pass
// read is contiguous so. They are never normalised. With e = exp(logit - m) for the row's largest logit m and Z the
// row's sum of e, the gradient at the logits is (e - Z at the target) / Z, and 1 / Z is a factor of the rows of smaller
// matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gemm.h"
#include "shared.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr long GROUPS = 64;  // of panels whose sums are made apart, so that they do not depend on the threads

// The panels of group g of `panels`.
struct Group {
  long begin, end;
  Group(long panels, long g) : begin(panels * g / GROUPS), end(panels * (g + 1) / GROUPS) {}
};

// Logits into panels. Columns beyond V become -infinity, so that they count nowhere.
struct IntoPanels {
  static constexpr bool wants_sums = false;
  float* p;
  long N, V;
  const float* bias;
  float* most;  // [N][NR], this thread's largest values

  float weight(long) const { return 1.f; }
  void sums(long, const float*) const {}
  void operator()(long panel, long row0, long rows, const float* values) const {
    const long j = panel * NR, width = V - j;
    float offsets[NR];
    for (long i = 0; i < NR; i++)
      offsets[i] = i >= width ? -std::numeric_limits<float>::infinity() : bias == nullptr ? 0.f : bias[j + i];
    const vf b0 = load(offsets), b1 = load(offsets + VL);
    float* out = p + (panel * N + row0) * NR;
    float* top = most + row0 * NR;
    for (long r = 0; r < rows * NR; r += NR) {
      const vf x0 = load(values + r) + b0, x1 = load(values + r + VL) + b1;
      store(out + r, x0);
      store(out + r + VL, x1);
      store(top + r, max(load(top + r), x0));
      store(top + r + VL, max(load(top + r + VL), x1));
    }
  }
};

// exp(logit - m) in place over the panels of the groups of this thread; sums[group][row].
inline void exponentials(int id, int threads, long N, long panels, const float* m, float* e, float* sums) {
  const Part part(GROUPS, id, threads);
  for (long g = part.begin; g < part.end; g++) {
    const Group group(panels, g);
    constexpr long ROWS = 128;
    alignas(64) float lanes[ROWS * VL];
    for (long n0 = 0; n0 < N; n0 += ROWS) {
      const long rows = std::min(ROWS, N - n0);
      std::memset(lanes, 0, sizeof lanes);
      for (long p = group.begin; p < group.end; p++) {
        float* x = e + (p * N + n0) * NR;
        for (long r = 0; r < rows; r++) {
          const vf mr = splat(m[n0 + r]);
          const vf e0 = exp_of_negative(load(x + r * NR) - mr), e1 = exp_of_negative(load(x + r * NR + VL) - mr);
          store(x + r * NR, e0);
          store(x + r * NR + VL, e1);
          store(lanes + r * VL, load(lanes + r * VL) + (e0 + e1));
        }
      }
      for (long r = 0; r < rows; r++) sums[g * N + n0 + r] = sum(load(lanes + r * VL));
    }
  }
}

// e [panels][N][NR], inverse_z [N] and the losses -log p [N]. `most` is scratch: (threads, N, NR); sums: (GROUPS, N).
// Under a shared mask on h, `compacted` is scratch too: (N, H) + (threads, N, NR).
inline void softmax_forward(long N, long H, long V, const float* h, const float* w, const float* bias,
                            const int64_t* targets, float* e, float* inverse_z, float* losses, float* most, float* sums,
                            const Shared* shared, float* compacted, int threads) {
  const long panels = (V + NR - 1) / NR;
  const float low = -std::numeric_limits<float>::infinity();
  if (shared != nullptr) list_kept(*shared);
  parallel(threads, [&](int id, int n, Barrier& barrier) {
    float* mine = most + id * N * NR;
    std::fill(mine, mine + N * NR, low);
    const IntoPanels sink{e, N, V, bias, mine};
    if (shared != nullptr) {
      compact(id, n, *shared, h, compacted);
      barrier.wait();
      shared_multiply(id, n, *shared, V, compacted, ByColumns{w, H, V}, sink, compacted + N * H + id * N * NR);
    } else {
      multiply(id, n, N, V, H, Rows{h, H}, ByColumns{w, H, V}, sink);
    }
    barrier.wait();
    const Part rows(N, id, n);
    for (long r = rows.begin; r < rows.end; r++) {
      vf top = load(most + r * NR);
      for (int t = 0; t < n; t++)
        for (int v = 0; v < NR; v += VL) top = max(load(most + (t * N + r) * NR + v), top);
      inverse_z[r] = largest(top);
      // The target stays out of the sum, so that the gradient there, minus the others' share, is exact where it is
      // small.
      const long v = targets[r];
      float& target = e[((v / NR) * N + r) * NR + v % NR];
      losses[r] = inverse_z[r] - target;
      target = low;
    }
    barrier.wait();
    exponentials(id, n, N, panels, inverse_z, e, sums);
    barrier.wait();
    for (long r = rows.begin; r < rows.end; r++) {
      double others = 0;
      for (long g = 0; g < GROUPS; g++) others += sums[g * N + r];
      const double z = others + std::exp(-static_cast<double>(losses[r]));
      losses[r] += static_cast<float>(std::log(z));
      const long v = targets[r];
      e[((v / NR) * N + r) * NR + v % NR] = static_cast<float>(-others);
      inverse_z[r] = static_cast<float>(1 / z);
    }
  });
}

// Gradients, `factor` times; each of d_h, d_w, d_bias may be null. turned is scratch: (H, N); under a shared mask on h,
// so are turned_w (H, V), lanes (N + groups VL) H and own (threads, H, NR).
inline void softmax_backward(long N, long H, long V, const float* h, const float* w, const float* e,
                             const float* inverse_z, float factor, float* d_h, float* d_w, float* d_bias, float* turned,
                             const Shared* shared, float* turned_w, float* lanes, float* own, int threads) {
  if (shared != nullptr) list_kept(*shared);
  parallel(threads, [&](int id, int n, Barrier& barrier) {
    const bool weights = d_w != nullptr || d_bias != nullptr;
    const IntoColumns sink{d_w, H, V, d_bias, nullptr, inverse_z, factor};
    if (shared != nullptr) {
      if (weights) compact_turned(id, n, *shared, h, inverse_z, factor, turned);
      if (d_h != nullptr) transpose(id, n, w, V, H, H, nullptr, 1.f, turned_w);
      barrier.wait();
      if (d_h != nullptr)
        shared_input_gradient(id, n, *shared, V, turned_w, TurnPanels{e, N}, inverse_z, factor, d_h, lanes);
      if (weights)
        shared_weight_gradient(id, n, *shared, V, turned, Ready{e, N}, sink, nullptr, own + id * H * NR);
      return;
    }
    if (weights) transpose(id, n, h, N, H, H, inverse_z, factor, turned);
    barrier.wait();
    if (d_h != nullptr)
      multiply(id, n, N, H, V, Rows{e, NR, N * NR}, ByRows{w, H, H},
               IntoRows{d_h, H, H, nullptr, nullptr, inverse_z, factor});
    if (weights) multiply(id, n, d_w == nullptr ? 1 : H, V, N, Rows{turned, N}, Ready{e, N}, sink);
  });
}

// Largest value and sum of exponentials, kept up to date as logits come by: -log p without the logits.
struct IntoLogSum {
  static constexpr bool wants_sums = false;
  long V;
  const float* bias;
  const int64_t* targets;
  float* most;           // [N][NR]
  float* total;          // [N][NR]
  float* target_logits;  // [N]

  float weight(long) const { return 1.f; }
  void sums(long, const float*) const {}
  void operator()(long panel, long row0, long rows, const float* values) const {
    const long j = panel * NR, width = V - j;
    float offsets[NR];
    for (long i = 0; i < NR; i++)
      offsets[i] = i >= width ? -std::numeric_limits<float>::infinity() : bias == nullptr ? 0.f : bias[j + i];
    for (long r = 0; r < rows; r++) {
      float logits[NR];
      for (int v = 0; v < NR; v += VL) {
        const long at = (row0 + r) * NR + v;
        const vf x = load(values + r * NR + v) + load(offsets + v);
        store(logits + v, x);
        const vf before = load(most + at), now = max(x, before);
        const vf floor = now < splat(-3e38f) ? vf{} : now;  // nothing but -infinity so far: no difference of infinities
        store(total + at, load(total + at) * exp_of_negative(before - floor) + exp_of_negative(x - floor));
        store(most + at, now);
      }
      const long t = targets[row0 + r] - j;
      if (t >= 0 && t < NR) target_logits[row0 + r] = logits[t];
    }
  }
};

// log p of the targets [N]. Scratch: most and total, each (GROUPS, N, NR).
inline void log_probabilities(long N, long H, long V, const float* h, const float* w, const float* bias,
                              const int64_t* targets, float* out, float* most, float* total, int threads) {
  const long panels = (V + NR - 1) / NR;
  parallel(threads, [&](int id, int n, Barrier& barrier) {
    const Part part(GROUPS, id, n);
    for (long g = part.begin; g < part.end; g++) {
      const Group group(panels, g);
      float* top = most + g * N * NR;
      std::fill(top, top + N * NR, -std::numeric_limits<float>::infinity());
      std::fill(total + g * N * NR, total + (g + 1) * N * NR, 0.f);
      if (group.begin == group.end) continue;
      const long j = group.begin * NR, width = std::min(V, group.end * NR) - j;
      // The group as a vocabulary of its own; targets outside of it are no columns of it.
      struct Shifted : IntoLogSum {
        long offset;
        void operator()(long panel, long row0, long rows, const float* values) const {
          IntoLogSum::operator()(panel + offset, row0, rows, values);
        }
      };
      Shifted sink{{V, bias, targets, top, total + g * N * NR, out}, group.begin};
      multiply(0, 1, N, width, H, Rows{h, H}, ByColumns{w + j * H, H, width}, sink);
    }
    barrier.wait();
    const Part rows(N, id, n);
    for (long r = rows.begin; r < rows.end; r++) {
      float m = -std::numeric_limits<float>::infinity();
      for (long g = 0; g < GROUPS; g++)
        for (int i = 0; i < NR; i++) m = std::max(m, most[(g * N + r) * NR + i]);
      double z = 0;
      for (long g = 0; g < GROUPS; g++)
        for (int i = 0; i < NR; i++) {
          const long at = (g * N + r) * NR + i;
          if (total[at] != 0) z += total[at] * std::exp(static_cast<double>(most[at]) - m);
        }
      out[r] = static_cast<float>(out[r] - m - std::log(z));
    }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
