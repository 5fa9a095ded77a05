// Vectors of 16 float32 numbers, in the language extension that GCC and Clang share; one register or several.

#pragma once

#include <cstdint>
#include <cstring>

// GCC drops calls of functions that do nothing but fetch, unless they are inlined.
#define INLINE __attribute__((always_inline)) inline

namespace {

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));
typedef int8_t codes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline vec load(const float* x) { return *reinterpret_cast<const loose*>(x); }
inline vec load(const int8_t* x) { return __builtin_convertvector(*reinterpret_cast<const codes*>(x), vec); }
inline void store(float* x, vec v) { *reinterpret_cast<loose*>(x) = v; }
inline vec all(float x) { return vec{} + x; }

// The first n of LANES numbers, zeros behind them; nothing is read past x + n.
template <class T>
inline vec load_part(const T* x, int64_t n) {
  T part[LANES] = {};
  std::memcpy(part, x, n * sizeof(T));
  return load(part);
}

// Calls visit(d, load) for the vectors of `dim` numbers; what it loads with stops at the end.
template <class Visit>
inline void each_vector(int64_t dim, Visit visit) {
  int64_t d = 0;
  for (; d + LANES <= dim; d += LANES) visit(d, [](const auto* x) { return load(x); });
  if (d < dim) visit(d, [n = dim - d](const auto* x) { return load_part(x, n); });
}

// Adds groups of SIZE neighbouring lanes in pairs: those of a to the lower, those of b to the upper ones of a result.
#define EVEN(SIZE, i) ((i) / (SIZE) % 2 * LANES + (i) / (2 * (SIZE)) * 2 * (SIZE) + (i) % (SIZE))
#define LANES_OF(S, PLUS)                                                                                     \
  EVEN(S, 0) + PLUS, EVEN(S, 1) + PLUS, EVEN(S, 2) + PLUS, EVEN(S, 3) + PLUS, EVEN(S, 4) + PLUS, EVEN(S, 5) + PLUS, \
      EVEN(S, 6) + PLUS, EVEN(S, 7) + PLUS, EVEN(S, 8) + PLUS, EVEN(S, 9) + PLUS, EVEN(S, 10) + PLUS,               \
      EVEN(S, 11) + PLUS, EVEN(S, 12) + PLUS, EVEN(S, 13) + PLUS, EVEN(S, 14) + PLUS, EVEN(S, 15) + PLUS
template <int SIZE>
inline vec fold(vec a, vec b) {
  return __builtin_shufflevector(a, b, LANES_OF(SIZE, 0)) + __builtin_shufflevector(a, b, LANES_OF(SIZE, SIZE));
}

// The sum of the lanes of sums[i] in lane i.
INLINE vec add_up(vec* sums) {
  for (int i = 0; i < 8; ++i) sums[i] = fold<8>(sums[i], sums[i + 8]);
  for (int i = 0; i < 4; ++i) sums[i] = fold<4>(sums[i], sums[i + 4]);
  for (int i = 0; i < 2; ++i) sums[i] = fold<2>(sums[i], sums[i + 2]);
  return fold<1>(sums[0], sums[1]);
}

// N rows of x, `x_dim` apart, times K rows of y anywhere: in lane r * K + k of the result the sum over `dim` numbers,
// N * K <= LANES. A sum adds its numbers in one order, whatever N and K are. What lies `ahead` of y is fetched.
template <int N, int K, class T>
inline vec dot_block(const float* x, int64_t x_dim, const T* const* y, int64_t dim, int64_t ahead = 0) {
  vec sums[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) sums[i] = vec{};  // an initialiser would be a call of memset
  each_vector(dim, [&](int64_t d, auto load) {
    vec of_y[K];
    for (int k = 0; k < K; ++k) {
      of_y[k] = load(y[k] + d);
      if (ahead) __builtin_prefetch(y[k] + d + ahead);
    }
    for (int r = 0; r < N; ++r) {
      const vec of_x = load(x + r * x_dim + d);
      for (int k = 0; k < K; ++k) sums[r * K + k] += of_x * of_y[k];
    }
  });
  return add_up(sums);
}

// exp(x) to about one unit in the last place; 0 below the smallest normal number; NaN stays NaN. x <= 88.
// By 2^n * p(r) with r = x - n ln 2, |r| <= ln 2 / 2, and p of degree 6 (Taylor's, whose error is below 2^-24 there
// once the sixth coefficient is 1/720).
inline vec exp_of(vec x) {
  const vec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const vec n = (x * 1.44269504088896341f + magic) - magic;
  const vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  vec p = all(1.0f / 5040);
  for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  const whole bits = (__builtin_convertvector(n, whole) + 127) << 23;
  return x < -87.0f ? vec{} : p * (vec)bits;  // a cast between vectors keeps the bits
}

inline vec larger(vec a, vec b) { return a > b ? a : b; }

// In every lane the lane whose number differs by SIZE (which is 1, 2, 4 or 8).
template <int SIZE>
inline vec across(vec v) {
  return __builtin_shufflevector(v, v, SIZE ^ 0, SIZE ^ 1, SIZE ^ 2, SIZE ^ 3, SIZE ^ 4, SIZE ^ 5, SIZE ^ 6, SIZE ^ 7,
                                 SIZE ^ 8, SIZE ^ 9, SIZE ^ 10, SIZE ^ 11, SIZE ^ 12, SIZE ^ 13, SIZE ^ 14, SIZE ^ 15);
}
inline float max_of(vec v) {
  v = larger(v, across<8>(v));
  v = larger(v, across<4>(v));
  v = larger(v, across<2>(v));
  return larger(v, across<1>(v))[0];
}
inline float sum_of(vec v) {
  v += across<8>(v);
  v += across<4>(v);
  v += across<2>(v);
  return (v + across<1>(v))[0];
}

}  // namespace
