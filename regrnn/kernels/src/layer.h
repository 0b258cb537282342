// What one pass of one layer in one direction works on. Filled by regrnn/kernels/core.py, field for field.
#pragma once

#include <cstdint>

extern "C" {

enum Cell { TANH = 0, RELU = 1, SIGMOID = 2, LSTM = 3, GRU = 4 };

// T steps, H units, N = sum of `sizes` rows; matrices are row-major. Q = 1, 4, 3 gates of an RNN, LSTM, GRU.
struct Layer {
  int64_t cell, T, H, reverse, threads;
  const int64_t* sizes;   // (T) rows of each time step
  const int64_t* starts;  // (T) the first of them
  const float* w_hh;      // (Q H, H)
  const float* b_hn;      // (H) of a GRU with biases, else null
  const float* h0;        // (B, H)
  const float* c0;        // (B, H) of an LSTM
  const float* mask;      // of the recurrent state, or null: (N, H) if packed, else at t * mask_t + b * mask_b
  int64_t mask_packed, mask_t, mask_b;
  float* packed;    // scratch: (ceil(H / NR) NR, Q H)
  float* gates;     // (N, Q H): the input's part with its biases; after the forward pass, the gates' values
  float* h;         // (N, H)
  float* c;         // (N, H): c of an LSTM; of a GRU, the recurrent product that r multiplies
  float* h_n;       // (B, H): h after the last step of each row
  float* c_n;       // (B, H): c after it, of an LSTM
  float* entering;  // (N, H): h[t-1] as it entered the recurrent product, through the mask
  // Backward.
  const float* d_h;    // (N, H)
  const float* d_h_n;  // (B, H)
  const float* d_c_n;  // (B, H)
  float* d_gates;      // (N, Q H); of a GRU (N, 4 H): at r, z, n and the product that r multiplies
  float* carry;        // scratch: (B, H)
  float* d_h0;         // (B, H)
  float* d_c0;         // (B, H)
};

// A dropout mask that all rows of a group of time steps share, on K features: rows [first[g], first[g + 1]) have row g.
struct Shared {
  int64_t groups, N, K;
  const int64_t* first;  // (groups + 1)
  const float* mask;     // (groups, K)
  int32_t* kept;         // (groups, K): the features that group g keeps, in order,
  int32_t* count;        // (groups): and how many
};

}  // extern "C"
