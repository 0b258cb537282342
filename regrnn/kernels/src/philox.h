// Dropout masks from a seed: Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// Word i % 4 of the block with counter i / 4 decides element i, so that any part of a mask can be drawn by itself.
#pragma once

#include "threads.h"
#include "vector.h"

namespace regrnn {
namespace REGRNN_ISA {

// A word of a block in the lower half of each lane; what is in the upper half counts nowhere.
typedef uint64_t words __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));

// The words times m, 64 bits each.
REGRNN_INLINE words times(words x, uint32_t m) {
#if defined(__x86_64__) && REGRNN_VECTOR == 16
  return reinterpret_cast<words>(_mm512_mul_epu32(reinterpret_cast<__m512i>(x), _mm512_set1_epi64(m)));
#elif defined(__x86_64__) && REGRNN_VECTOR == 8
  return reinterpret_cast<words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(x), _mm256_set1_epi64x(m)));
#elif defined(__x86_64__)
  return reinterpret_cast<words>(_mm_mul_epu32(reinterpret_cast<__m128i>(x), _mm_set1_epi64x(m)));
#else
  return (x & 0xFFFFFFFFull) * static_cast<uint64_t>(m);
#endif
}

// Four words of each block, one block after the other.
REGRNN_INLINE void in_order(const words* c, vu* out) {
  const words a = (c[0] & 0xFFFFFFFFull) | c[1] << 32, b = (c[2] & 0xFFFFFFFFull) | c[3] << 32;
#if REGRNN_VECTOR == 16
  out[0] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11));
  out[1] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
#elif REGRNN_VECTOR == 8
  out[0] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 0, 4, 1, 5));
  out[1] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 2, 6, 3, 7));
#else
  out[0] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 0, 2));
  out[1] = reinterpret_cast<vu>(__builtin_shufflevector(a, b, 1, 3));
#endif
}

// out[i] = kept if word i is below `threshold` (up to 2^32), else 0; for i < n.
inline void draw_mask(uint64_t seed, long n, uint64_t threshold, float kept, float* out, int threads) {
  constexpr int LANES = VL / 2, AT_ONCE = 2;  // vectors of blocks, so that one is multiplied while another waits
  constexpr long LOT = 4 * LANES * AT_ONCE;
  const long lots = (n + LOT - 1) / LOT;
  const vu most = static_cast<uint32_t>(threshold - 1) + vu{};
  if (threshold == 0) kept = 0;
  parallel(n < 1 << 15 ? 1 : threads, [&](int id, int n_threads, Barrier&) {
    const Part part(lots, id, n_threads);
    for (long lot = part.begin; lot < part.end; lot++) {
      words c[AT_ONCE][4];
      uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
      for (int v = 0; v < AT_ONCE; v++) {
        words counter;
        for (int l = 0; l < LANES; l++) counter[l] = static_cast<uint64_t>(lot) * (LANES * AT_ONCE) + v * LANES + l;
        c[v][0] = counter;
        c[v][1] = counter >> 32;
        c[v][2] = c[v][3] = words{};
      }
      for (int round = 0; round < 10; round++) {
        for (int v = 0; v < AT_ONCE; v++) {
          const words a = times(c[v][0], 0xD2511F53u), b = times(c[v][2], 0xCD9E8D57u);
          c[v][0] = b >> 32 ^ c[v][1] ^ static_cast<uint64_t>(k0);
          c[v][1] = b;
          c[v][2] = a >> 32 ^ c[v][3] ^ static_cast<uint64_t>(k1);
          c[v][3] = a;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      alignas(64) float values[LOT];
      for (int v = 0; v < AT_ONCE; v++) {
        vu drawn[2];
        in_order(c[v], drawn);
        for (int half = 0; half < 2; half++)
          store(values + (2 * v + half) * VL, drawn[half] <= most ? splat(kept) : vf{});
      }
      float* to = out + lot * LOT;
      const long left = n - lot * LOT;
      if (left >= LOT)
        std::memcpy(to, values, sizeof(values));
      else
        std::memcpy(to, values, left * sizeof(float));
    }
  });
}

}  // namespace REGRNN_ISA
}  // namespace regrnn
