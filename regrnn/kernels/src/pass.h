// A pass of a layer, forward or backward: what it is given, and where the rest of what it works on lies.
#pragma once

#include <algorithm>

#include "layer.h"
#include "product.h"
#include "scratch.h"

namespace regrnn {
namespace REGRNN_ISA {

constexpr int gates_of(int cell) { return cell == LSTM ? 4 : cell == GRU ? 3 : 1; }

// Parts of the gradient at a cell's gates: of a GRU at r, z, n, and at the recurrent product that r multiplies.
constexpr int gate_gradients_of(int cell) { return cell == GRU ? 4 : gates_of(cell); }

struct Pass : Layer {
  float* gates;     // (N, Q H): the input's part with its biases; after the forward pass, the gates' values
  float* c;         // (N, H): c of an LSTM; of a GRU, the recurrent product that r multiplies
  float* entering;  // (N, H): h[t-1] as it entered the recurrent product, through the mask
  const int64_t* starts;  // (T): the first row of each time step
  float* packed;    // the recurrent weights in panels
  // Forward.
  const float* b_input;  // (Q H): b_hh without what is inside of a GRU's reset product, or null
  const float* b_hn;     // (H): that, of a GRU with biases, else null
  // Backward.
  float* d_gates;  // (N, Q H); of a GRU (N, 4 H)
  float* carry;    // (B, H)

  Pass() = default;
  Pass(const Layer& layer, Scratch& room, bool backward) : Layer(layer) {
    const int Q = gates_of(static_cast<int>(cell));
    Scratch kept_room(kept);
    const long cells = cell == LSTM || cell == GRU ? N * H : 0;
    gates = kept_room.take(N * Q * H);
    c = kept_room.take(cells);
    entering = kept_room.take(N * H);
    kept_floats_ = kept_room.floats();
    int64_t* all_rows = room.take<int64_t>(sizes == nullptr ? T : 0);
    int64_t* first_rows = room.take<int64_t>(T);
    starts = first_rows;
    const bool reset = cell == GRU && b_hh != nullptr;
    b_hn = reset ? b_hh + 2 * H : nullptr;
    float* without_reset = room.take(reset && !backward ? Q * H : 0);
    b_input = reset ? without_reset : b_hh;
    const long panels = (H + NR - 1) / NR;
    if (backward) {
      const long first = cell == GRU ? 2 * H : Q * H;
      packed = room.take(panels * (panel_floats(first) + panel_floats(Q * H - first)));
      d_gates = room.take(N * gate_gradients_of(static_cast<int>(cell)) * H);
      carry = room.take(B * H);
    } else {
      packed = room.take(panels * Q * panel_floats(H));
    }
    if (scratch == nullptr) return;
    for (long t = 0, start = 0; t < T; t++) {
      if (sizes == nullptr) all_rows[t] = B;
      first_rows[t] = start;
      start += sizes == nullptr ? B : sizes[t];
    }
    if (sizes == nullptr) sizes = all_rows;
    if (backward) return;
    // The same every time, as what an operator returns has to be.
    std::fill(gates + N * Q * H, c, 0.f);
    std::fill(c + cells, entering, 0.f);
    std::fill(entering + N * H, kept + kept_floats_, 0.f);
    if (reset)
      for (long j = 0; j < Q * H; j++) without_reset[j] = j < 2 * H ? b_hh[j] : 0.f;
  }

  long kept_floats() const { return kept_floats_; }

 private:
  long kept_floats_;
};

}  // namespace REGRNN_ISA
}  // namespace regrnn
