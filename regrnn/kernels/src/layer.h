// What one pass of one layer in one direction works on. Filled by regrnn/kernels/core.py, field for field.
#pragma once

#include <cstdint>

extern "C" {

enum Cell { TANH = 0, RELU = 1, SIGMOID = 2, LSTM = 3, GRU = 4 };

// T steps, B sequences, I inputs, H units, N rows in all; matrices are row-major. Q = 1, 4, 3 gates of an RNN, LSTM, GRU.
struct Layer {
  int64_t cell, T, B, N, I, H, reverse, threads;
  const int64_t* sizes;  // (T) rows of each time step, or null: B of each
  const float* x;        // (N, I)
  const float* w_ih;     // (Q H, I)
  const float* w_hh;     // (Q H, H)
  const float* b_ih;     // (Q H) or null
  const float* b_hh;     // (Q H) or null
  const float* h0;       // (B, H)
  const float* c0;       // (B, H) of an LSTM
  const float* mask;     // of the recurrent state, or null: (N, H) if packed, else at t * mask_t + b * mask_b
  int64_t mask_packed, mask_t, mask_b;
  const float* x_mask;   // that x has still to pass, or null: (N, I), or (groups, I) if `first` is not null
  int64_t groups;
  const int64_t* first;  // (groups + 1): row g of x_mask is that of the rows [first[g], first[g + 1])
  float* scratch;        // regrnn_layers_floats
  float* h;              // (N, H)
  float* h_n;            // (B, H): h after the last step of each row
  float* c_n;            // (B, H): c after it, of an LSTM
  float* kept;           // regrnn_layer_kept floats, for the backward pass
  // Backward. The gradients at h, h_n and c_n are zero where they are null.
  const float* d_h;
  const float* d_h_n;
  const float* d_c_n;
  int64_t wants_x;
  float *d_x, *d_h0, *d_c0, *d_w_ih, *d_w_hh, *d_b_ih, *d_b_hh;  // of the biases null if there are none
};

// A dropout mask that all rows of a group of time steps share, on K features: rows [first[g], first[g + 1]) have row g.
struct Shared {
  int64_t groups, N, K;
  const int64_t* first;  // (groups + 1)
  const float* mask;     // (groups, K)
  int32_t* kept;         // (groups, K): the features that group g keeps, in order,
  int32_t* count;        // (groups): and how many
};

// A matrix (outputs, K) for products with few rows: panels of NR outputs as floats, [panel][K][NR], or bytes times the
// output's scale, four outputs together, [outputs / 4][stride / 16][4][16], zeros behind K. Outputs are padded to whole
// panels.
struct Matrix {
  int64_t K;
  const float* panels;   // or null
  const int8_t* bytes;   // where panels is null
  const float* scales;   // (outputs)
  int64_t stride;        // K in whole sixteens
};

// One layer of a stack; every gate of the matrices is padded to whole panels.
struct StackedLayer {
  Matrix w_ih, w_hh;
  const float* bias;  // (Q H), both biases together, or null; without the last part of b_hh of a GRU,
  const float* b_hn;  // (H), which is here, or null
};

// A stack of layers between an embedding and a softmax, that B rows go through step by step.
struct Stack {
  int64_t cell, layers, B, E, H, V, threads;
  const float* embedding;          // (types, E)
  const StackedLayer* stacked;     // (layers)
  Matrix decoder;
  const float* decoder_bias;       // (V) or null
  float* h;                        // (2, layers, B, H): the state, and room for the next one
  float* c;                        // the same of an LSTM
  float* logits;                   // (B, V)
  float* projected;                // (types, Q H): the first layer's products, token by token, as they come to be known,
  uint8_t* known;                  // (types): or both null
  // Scratch.
  float* x;         // (B, E)
  float* gates;     // (B, Q H)
  float* h_now;     // (B, H)
  float* c_now;     // (B, H)
  float* products;  // (threads, PANELS, B, NR)
  int16_t* rounded; // (threads, 2, B, most stride) under bytes: of a layer's input and of its state
  float* steps;     // (threads, 2, B)
  int32_t* unknown; // (threads, B)
  int64_t* checked; // (B) where it checks what another one has drafted
};

// How tokens are drawn from logits.
struct Drawing {
  float temperature;  // 0: the most probable
  float top_p;        // 1: all
  int64_t top_k;      // 0: all
  const int64_t* never;   // (nevers): tokens that are not drawn
  int64_t nevers;
  const float* uniform;   // (length, B), in [0, 1)
};

}  // extern "C"
