// Dropout masks from a seed: Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// Word i % 4 of the block with counter i / 4 decides element i, so that any part of a mask can be drawn by itself.
#pragma once

#include "threads.h"
#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

// out[i] = kept if word i is below `threshold` (up to 2^32), else 0; for i < n.
inline void draw_mask(uint64_t seed, long n, uint64_t threshold, float kept, float* out, int threads) {
  constexpr int LANES = 16;
  const long blocks = (n + 3) / 4, lots = (blocks + LANES - 1) / LANES;
  parallel(n < 1 << 15 ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    const Part part(lots, id, n_threads);
    for (long lot = part.begin; lot < part.end; lot++) {
      uint32_t c[4][LANES], k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
      for (int l = 0; l < LANES; l++) {
        const uint64_t counter = static_cast<uint64_t>(lot) * LANES + l;
        c[0][l] = static_cast<uint32_t>(counter);
        c[1][l] = static_cast<uint32_t>(counter >> 32);
        c[2][l] = c[3][l] = 0;
      }
      for (int round = 0; round < 10; round++) {
        for (int l = 0; l < LANES; l++) {
          const uint64_t a = 0xD2511F53ull * c[0][l], b = 0xCD9E8D57ull * c[2][l];
          const uint32_t c1 = c[1][l], c3 = c[3][l];
          c[0][l] = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
          c[1][l] = static_cast<uint32_t>(b);
          c[2][l] = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
          c[3][l] = static_cast<uint32_t>(a);
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      float* to = out + lot * LANES * 4;
      float values[LANES * 4];
      for (int l = 0; l < LANES; l++)
        for (int w = 0; w < 4; w++) values[l * 4 + w] = c[w][l] < threshold ? kept : 0.f;
      const long left = n - lot * LANES * 4;
      std::memcpy(to, values, (left < LANES * 4 ? left : LANES * 4) * sizeof(float));
    }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
