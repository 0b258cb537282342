// Vectors of floats of the instruction set this file is compiled for, and the elementary functions on them.
//
// The compiler's vector extension is used, not intrinsics, so that one source serves SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <cstdint>
#include <cstring>

namespace regrnn {
namespace REGRNN_ISA {

#define REGRNN_INLINE inline __attribute__((always_inline))
#define REGRNN_LAMBDA_INLINE __attribute__((always_inline))

constexpr int VL = REGRNN_VECTOR;  // floats in a vector
constexpr int NR = 2 * VL;         // width of a panel: output columns that one tile computes

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef int16_t vs16 __attribute__((vector_size(VL * 2)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

typedef float quad __attribute__((vector_size(16)));
typedef float quad_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

REGRNN_INLINE quad load_quad(const float* p) { return *reinterpret_cast<const quad_unaligned*>(p); }
REGRNN_INLINE void store_quad(float* p, quad x) { *reinterpret_cast<quad_unaligned*>(p) = x; }

// An address as one number that the compiler cannot take apart: it would add two at every load, or ask for the place of a
// thread_local again in every turn of a loop.
template <class T>
REGRNN_INLINE T* in_one_register(T* p) {
  asm("" : "+r"(p));
  return p;
}

// Ask for the cache line of p: for the first-level cache, for the second, or to write there. The empty assembly is an effect: a
// function that only asks has none for GCC, which then leaves out all calls of it.
REGRNN_INLINE void fetch(const void* p) {
  __builtin_prefetch(p);
  asm volatile("");
}
REGRNN_INLINE void fetch_later(const void* p) {
  __builtin_prefetch(p, 0, 2);
  asm volatile("");
}
REGRNN_INLINE void fetch_to_write(const void* p) {
  __builtin_prefetch(p, 1);
  asm volatile("");
}

REGRNN_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
REGRNN_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
REGRNN_INLINE vf splat(float x) { return x - vf{}; }

// The first n floats, the others 0; n may be below 0 or above VL.
REGRNN_INLINE vf load_some(const float* p, long n) {
  if (n >= VL) return load(p);
  vf x = {};
  if (n > 0) std::memcpy(&x, p, n * sizeof(float));
  return x;
}

REGRNN_INLINE void store_some(float* p, vf x, long n) {
  if (n >= VL)
    store(p, x);
  else if (n > 0)
    std::memcpy(p, &x, n * sizeof(float));
}

// sum += a b. Under AVX2, whose registers the sums of a tile nearly fill, GCC left to itself moves some of them about and keeps one
// in memory, which every turn of the loop then waits for. Here it has no choice, nor in how often it rounds: what has to be the same
// to the last bit by two ways is summed by one of these in both of them.
REGRNN_INLINE void multiply_add(vf& sum, vf a, vf b) {
#if REGRNN_VECTOR == 8 && defined(__FMA__)
  vf now = sum;  // of an element of an array the compiler would keep the array in memory
  asm("vfmadd231ps %2, %1, %0" : "+x"(now) : "x"(a), "x"(b));
  sum = now;
#else
  sum += a * b;
#endif
}

// The same with b in memory.
REGRNN_INLINE void multiply_add(vf& sum, vf a, const float* b) {
#if REGRNN_VECTOR == 8 && defined(__FMA__)
  vf now = sum;
  asm("vfmadd231ps %2, %1, %0" : "+x"(now) : "x"(a), "m"(*reinterpret_cast<const vf_unaligned*>(b)));
  sum = now;
#else
  sum += a * load(b);
#endif
}

REGRNN_INLINE vf max(vf a, vf b) { return a > b ? a : b; }

REGRNN_INLINE float sum(vf x) {
  float total = 0;
  for (int i = 0; i < VL; i++) total += x[i];
  return total;
}

REGRNN_INLINE float largest(vf x) {
  float most = x[0];
  for (int i = 1; i < VL; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// Sums of neighbours, of a and of b; of vectors of two quads as (a[0] + a[1], a[2] + a[3], b[0] + b[1], ...) in each of them, since
// AVX2 moves nothing between them without a cost.
REGRNN_INLINE vf sums_of_neighbours(vf a, vf b) {
#if REGRNN_VECTOR == 16
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif REGRNN_VECTOR == 8
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

// out[i] = the sum of the elements of v[i].
REGRNN_INLINE vf sums_of(const vf* v) {
  vf now[VL];
#pragma GCC unroll 16
  for (int i = 0; i < VL; i++) now[i] = v[i];
  constexpr int LAST = VL == 8 ? 2 : 1;
#pragma GCC unroll 4
  for (int left = VL; left > LAST; left /= 2)  // vectors, of which each holds parts of VL / left sums
#pragma GCC unroll 8
    for (int i = 0; i < left / 2; i++) now[i] = sums_of_neighbours(now[2 * i], now[2 * i + 1]);
#if REGRNN_VECTOR == 8
  return __builtin_shufflevector(now[0], now[1], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(now[0], now[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
  return now[0];
#endif
}

// Four elements of each of VL rows of `in`, ld apart, turned: out[k * ld_out + r] = in[r * ld + k], r < VL, k < 4.
REGRNN_INLINE void turn_four(const float* in, long ld, float* out, long ld_out) {
#if REGRNN_VECTOR == 16
  typedef float half __attribute__((vector_size(32)));
  vf x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const half low = __builtin_shufflevector(load_quad(in + i * ld), load_quad(in + (i + 4) * ld), 0, 1, 2, 3, 4, 5, 6, 7);
    const half high =
        __builtin_shufflevector(load_quad(in + (i + 8) * ld), load_quad(in + (i + 12) * ld), 0, 1, 2, 3, 4, 5, 6, 7);
    x[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
#define REGRNN_BY_FOURS(a, b, i, j, k, l) \
  __builtin_shufflevector(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4, i + 8, j + 8, k + 8, l + 8, i + 12, j + 12, k + 12, l + 12)
#elif REGRNN_VECTOR == 8
  vf x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    x[i] = __builtin_shufflevector(load_quad(in + i * ld), load_quad(in + (i + 4) * ld), 0, 1, 2, 3, 4, 5, 6, 7);
#define REGRNN_BY_FOURS(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4)
#else
  const vf x[4] = {load(in), load(in + ld), load(in + 2 * ld), load(in + 3 * ld)};
#define REGRNN_BY_FOURS(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#endif
  const vf ab = REGRNN_BY_FOURS(x[0], x[1], 0, VL, 1, VL + 1), cd = REGRNN_BY_FOURS(x[2], x[3], 0, VL, 1, VL + 1);
  const vf AB = REGRNN_BY_FOURS(x[0], x[1], 2, VL + 2, 3, VL + 3), CD = REGRNN_BY_FOURS(x[2], x[3], 2, VL + 2, 3, VL + 3);
  store(out, REGRNN_BY_FOURS(ab, cd, 0, 1, VL, VL + 1));
  store(out + ld_out, REGRNN_BY_FOURS(ab, cd, 2, 3, VL + 2, VL + 3));
  store(out + 2 * ld_out, REGRNN_BY_FOURS(AB, CD, 0, 1, VL, VL + 1));
  store(out + 3 * ld_out, REGRNN_BY_FOURS(AB, CD, 2, 3, VL + 2, VL + 3));
#undef REGRNN_BY_FOURS
}

// out[k * ld_out + r] = in[r * ld + k], r < rows, k < n.
inline void turn(const float* in, long ld, long rows, long n, float* out, long ld_out) {
  long r = 0;
  for (; r + VL <= rows; r += VL) {
    const float* p = in + r * ld;
    long k = 0;
    for (; k + 4 <= n; k += 4) turn_four(p + k, ld, out + k * ld_out + r, ld_out);
    for (; k < n; k++)
      for (int i = 0; i < VL; i++) out[k * ld_out + r + i] = p[i * ld + k];
  }
  for (; r + 4 <= rows; r += 4) {
    const float* p = in + r * ld;
    long k = 0;
    for (; k + 4 <= n; k += 4) {
      const quad a = load_quad(p + k), b = load_quad(p + ld + k), c = load_quad(p + 2 * ld + k),
                 d = load_quad(p + 3 * ld + k);
      const quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const quad AB = __builtin_shufflevector(a, b, 2, 6, 3, 7), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* o = out + k * ld_out + r;
      store_quad(o, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
      store_quad(o + ld_out, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
      store_quad(o + 2 * ld_out, __builtin_shufflevector(AB, CD, 0, 1, 4, 5));
      store_quad(o + 3 * ld_out, __builtin_shufflevector(AB, CD, 2, 3, 6, 7));
    }
    for (; k < n; k++)
      for (int i = 0; i < 4; i++) out[k * ld_out + r + i] = p[i * ld + k];
  }
  for (; r < rows; r++)
    for (long k = 0; k < n; k++) out[k * ld_out + r] = in[r * ld + k];
}

// e^x to 2 units in the last place; 0 below -87.3, 1.6e38 above 88, NaN stays NaN.
REGRNN_INLINE vf exp(vf x) {
  const vf low = splat(-87.33654f), high = splat(88.f);
  const vf bounded = x < low ? low : (x > high ? high : x);
  const vf round = splat(12582912.f);  // 1.5 * 2^23: adding and subtracting it rounds to an integer
  const vf shifted = bounded * 1.44269504f + round;
  const vf n = shifted - round;
  const vf r = bounded - n * 0.693359375f - n * -2.12194440e-4f;  // ln 2 in two parts
  // Cephes' polynomial for e^r on +-ln(2)/2.
  vf y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.f;
  const vf power = reinterpret_cast<vf>((reinterpret_cast<vi>(shifted) - 0x4B400000 + 127) << 23);  // 2^n
  return x < low ? vf{} : y * power;
}

// tanh to 3e-7: x P(x^2) / Q(x^2), fitted to the least relative error on +-9 (1.3e-9 before rounding).
REGRNN_INLINE vf tanh(vf x) {
  const vf end = splat(9.f);
  x = x > end ? end : (x < -end ? -end : x);
  const vf s = x * x;
  vf p = splat(-1.224727610993348e-11f);
  p = p * s + 3.0643949600062115e-08f;
  p = p * s + 2.803191455313936e-05f;
  p = p * s + 0.0038695381954312325f;
  p = p * s + 0.13680881261825562f;
  p = p * s + 1.f;
  vf q = splat(1.2890768630313687e-06f);
  q = q * s + 0.00039407663280144334f;
  q = q * s + 0.027250267565250397f;
  q = q * s + 0.470142126083374f;
  q = q * s + 1.f;
  const vf y = x * p / q;
  const vf one = splat(1.f);
  return y > one ? one : (y < -one ? -one : y);
}

REGRNN_INLINE vf sigmoid(vf x) { return 0.5f + 0.5f * tanh(0.5f * x); }

}  // namespace REGRNN_ISA
}  // namespace regrnn
