// The core, compiled into one library for each instruction set, with REGRNN_ISA (its name) and REGRNN_VECTOR (floats
// in a vector) defined. Libraries of their own, since inline functions that several share would be merged by the linker
// and then run with the instructions of any. All pointers are to contiguous memory that the caller has checked; no
// function allocates, throws or keeps anything.
#include <pthread.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "inference.h"
#include "passes.h"
#include "philox.h"
#include "rows.h"
#include "softmax.h"
#include "update.h"

#define EXPORT __attribute__((visibility("default")))

using namespace regrnn::REGRNN_ISA;
using regrnn::Barrier;
using regrnn::parallel;
using regrnn::Turns;

namespace regrnn {
bool forked = false;
}

extern "C" {

__attribute__((constructor)) static void watch_forks() {
  pthread_atfork(nullptr, nullptr, [] { regrnn::forked = true; });
}

// The name of the widest instruction set that there is a library for and that this processor has.
EXPORT const char* regrnn_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi")) return "baseline";
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return "avx512";
  return "avx2";
#endif
  return "baseline";
}

// The library whose products round to bfloat16 that fits this processor and system, or "".
EXPORT const char* regrnn_bfloat16() {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  const bool avx512 = std::strcmp(regrnn_instruction_set(), "avx512") == 0;
  if (!avx512 || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return "";
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return "avx512bf16";
#ifdef __linux__
  constexpr long REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM of XTILEDATA: a process has to ask for the tiles
  if (syscall(SYS_arch_prctl, REQUEST, TILES) == 0) return "amx";
#endif
  return "avx512bf16";
#else
  return "";
#endif
}

// Width of a panel, which the sizes of scratch depend on.
EXPORT int64_t regrnn_panel() { return NR; }

// c (M, N) = a (M, K) w (N, K)^T + bias + bias2
EXPORT void regrnn_project(int64_t M, int64_t N, int64_t K, const float* a, const float* w, const float* bias,
                     const float* bias2, float* c, int64_t threads) {
  Turns turns;
  parallel(static_cast<int>(threads), [&](int id, int n, Barrier&) {
    Held held;
    multiply(id, n, M, N, K, Rows{a, K}, ByColumns{w, K, N}, IntoRows{c, N, N, bias, bias2}, held, &turns);
  });
}

// c (M, N) = a (M, K; rows lda apart) b (K, N). Scratch: waiting (ceil(N / NR) NR, M).
EXPORT void regrnn_product(int64_t M, int64_t N, int64_t K, const float* a, int64_t lda, const float* b, float* c,
                           float* waiting, int64_t threads) {
  parallel(static_cast<int>(threads), [&](int id, int n, Barrier&) {
    if (K == 0) return std::fill(c, c + (id == 0 ? M * N : 0), 0.f);
    Held held;
    multiply_deep(id, n, M, N, K, Rows{a, lda}, ByRows{b, N, N}, IntoRows{c, N, N}, waiting, held);
  });
}

// c (N, M) = (turned (M, K) b (K, N; rows ldb apart))^T, and the product with the row behind those of turned into sums (N).
// Scratch as of the above, for one row more.
EXPORT void regrnn_outer(int64_t M, int64_t N, int64_t K, const float* turned, const float* b, int64_t ldb, float* c,
                         float* sums, float* waiting, int64_t threads) {
  Turns turns;
  parallel(static_cast<int>(threads), [&](int id, int n, Barrier&) {
    outer(id, n, turns, N, K, turned, b, ldb, {{c, M, N, sums}, true}, waiting);
  });
}

// Floats of scratch that a pass of these layers needs, whose own is null.
EXPORT int64_t regrnn_layers_floats(const Layer* layers, int64_t count, int64_t backward) {
  int64_t most = 0;
  for (int64_t i = 0; i < count; i++)
    most = std::max<int64_t>(most, backward != 0 ? BackwardPass(layers[i]).floats() : ForwardPass(layers[i]).floats());
  return most;
}

// Floats that a layer keeps for its backward pass.
EXPORT int64_t regrnn_layer_kept(const Layer* layer) { return ForwardPass(*layer).kept_floats(); }

// Layers on top of each other, each of which reads what the one below has written.
EXPORT void regrnn_layers_forward(const Layer* layers, int64_t count) {
  for (int64_t i = 0; i < count; i++) ForwardPass(layers[i]).run();
}
EXPORT void regrnn_layers_backward(const Layer* layers, int64_t count) {
  for (int64_t i = count; i-- > 0;) BackwardPass(layers[i]).run();
}

// `shared` is null, or a mask on h whose lists of what is kept are written here; or `separate` is one of each element of h.
EXPORT double regrnn_softmax_forward(int64_t N, int64_t H, int64_t V, const float* h, const float* w, const float* bias,
                                     const int64_t* targets, float* e, float* inverse_z, float* losses, float* most,
                                     float* m, float* sums, const Shared* shared, const float* separate, float* scratch,
                                     int64_t threads) {
  return softmax_forward(N, H, V, h, w, bias, targets, e, inverse_z, losses, most, m, sums, shared, separate, scratch,
                         static_cast<int>(threads));
}

EXPORT void regrnn_softmax_backward(int64_t N, int64_t H, int64_t V, const float* h, const float* w, const float* e,
                                    const float* inverse_z, float factor, float* d_h, float* d_w, float* d_bias,
                                    float* turned, float* waiting, const Shared* shared, const float* separate,
                                    float* turned_w, float* dots, float* own, int64_t threads) {
  softmax_backward(N, H, V, h, w, e, inverse_z, factor, d_h, d_w, d_bias, turned, waiting, shared, separate, turned_w,
                   dots, own, static_cast<int>(threads));
}

// Floats of scratch under a mask of each element of h.
EXPORT int64_t regrnn_separate_floats(int64_t N, int64_t K, int64_t threads) {
  Scratch room(nullptr);
  Separate(N, K, nullptr, static_cast<int>(threads), room);
  return room.floats();
}

EXPORT void regrnn_step(const Stack* stack, const int64_t* tokens) { step_tokens(*stack, tokens); }

EXPORT void regrnn_generate(const Stack* stack, const Drawing* drawing, int64_t length, int64_t* tokens) {
  generate(*stack, *drawing, length, tokens);
}

EXPORT void regrnn_generate_ahead(const Stack* stack, const Stack* draft, const Drawing* drawing, const float* judging,
                                  int64_t length, int64_t* tokens) {
  generate_ahead(*stack, *draft, *drawing, judging, length, tokens);
}

EXPORT int64_t regrnn_gather_rows(int64_t N, int64_t E, int64_t V, const int64_t* tokens, const float* weight, float* out,
                                  int64_t threads) {
  return gather_rows(N, E, V, tokens, weight, out, static_cast<int>(threads)) ? 1 : 0;
}

EXPORT int64_t regrnn_rows_in_use(int64_t N, int64_t V, const int64_t* tokens, int32_t* place, int64_t* rows) {
  return rows_in_use(N, V, tokens, place, rows);
}

EXPORT int64_t regrnn_ascending(int64_t N, const int64_t* rows) {
  for (int64_t i = 1; i < N; i++)
    if (rows[i - 1] >= rows[i]) return 0;
  return 1;
}

EXPORT void regrnn_sum_rows(int64_t N, int64_t E, int64_t count, const int64_t* tokens, const int32_t* place, const float* d,
                            float* sums, int64_t threads) {
  sum_rows(N, E, count, tokens, place, d, sums, static_cast<int>(threads));
}

EXPORT void regrnn_descend_rows(int64_t count, int64_t E, const int64_t* rows, const float* g, float* w, float rate,
                                int64_t threads) {
  descend_rows(count, E, rows, g, w, rate, static_cast<int>(threads));
}

EXPORT double regrnn_sum_of_squares(int64_t count, const int64_t* n, const float* const* x, double* pieces, int64_t threads) {
  return sum_of_squares(count, n, x, pieces, static_cast<int>(threads));
}

EXPORT void regrnn_descend(int64_t count, const int64_t* n, float* const* w, const float* const* g, float rate, float factor,
                           float decay, int64_t threads) {
  descend(count, n, w, g, rate, factor, decay, static_cast<int>(threads));
}

EXPORT void regrnn_draw_mask(uint64_t seed, int64_t n, uint64_t threshold, float kept, float* out, int64_t threads) {
  draw_mask(seed, n, threshold, kept, out, static_cast<int>(threads));
}

}  // extern "C"
