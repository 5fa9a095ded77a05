// Products of a few query rows with keys and values in any slots of the pool, in float32: what `_scores` and `_mix` of
// attention.py compute, for many short runs, where a product of matrices for each tile costs more than its numbers.
//
// A key is read once for all rows, and in place. A query is turned once for each run, into memory that stays in cache.
// Dimensions are multiples of LANES. With -fopenmp the loops run on threads of the library that torch uses as well.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int LANES = 16, KEYS = 4, COLUMNS = 64;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline vec load(const float* x) { return *reinterpret_cast<const loose*>(x); }
inline void store(float* x, vec v) { *reinterpret_cast<loose*>(x) = v; }

// Adds groups of SIZE neighbouring lanes in pairs: those of a to the lower, those of b to the upper ones of a result.
#define EVEN(SIZE, i) ((i) / (SIZE) % 2 * LANES + (i) / (2 * (SIZE)) * 2 * (SIZE) + (i) % (SIZE))
#define LANES_OF(F, S, PLUS)                                                                                    \
  F(S, 0) + PLUS, F(S, 1) + PLUS, F(S, 2) + PLUS, F(S, 3) + PLUS, F(S, 4) + PLUS, F(S, 5) + PLUS, F(S, 6) + PLUS,    \
      F(S, 7) + PLUS, F(S, 8) + PLUS, F(S, 9) + PLUS, F(S, 10) + PLUS, F(S, 11) + PLUS, F(S, 12) + PLUS,             \
      F(S, 13) + PLUS, F(S, 14) + PLUS, F(S, 15) + PLUS
template <int SIZE>
inline vec fold(vec a, vec b) {
  return __builtin_shufflevector(a, b, LANES_OF(EVEN, SIZE, 0)) +
         __builtin_shufflevector(a, b, LANES_OF(EVEN, SIZE, SIZE));
}

// The sum of the lanes of sums[i] in lane i.
__attribute__((always_inline)) inline vec add_up(vec* sums) {
  for (int i = 0; i < 8; ++i) sums[i] = fold<8>(sums[i], sums[i + 8]);
  for (int i = 0; i < 4; ++i) sums[i] = fold<4>(sums[i], sums[i + 4]);
  for (int i = 0; i < 2; ++i) sums[i] = fold<2>(sums[i], sums[i + 2]);
  return fold<1>(sums[0], sums[1]);
}

// Scores of N rows and K keys, N * K <= LANES; the first `count` of the keys are wanted.
template <int N, int K>
void score_block(const float* rows, const float* const* keys, int64_t dim, float* out, int64_t stride, int count) {
  vec sums[LANES] = {};
  for (int64_t d = 0; d < dim; d += LANES) {
    vec key[K];
    for (int k = 0; k < K; ++k) key[k] = load(keys[k] + d);
    for (int r = 0; r < N; ++r) {
      const vec row = load(rows + r * dim + d);
      for (int k = 0; k < K; ++k) sums[r * K + k] += row * key[k];
    }
  }
  float flat[LANES];
  store(flat, add_up(sums));
  for (int r = 0; r < N; ++r)
    for (int k = 0; k < count; ++k) out[r * stride + k] = flat[r * K + k];
}

// The same for any number of rows: as many at once as there are lanes for.
template <int K, int N = LANES / K>
void score_rows(const float* rows, int64_t num_rows, const float* const* keys, int64_t dim, float* out, int64_t stride,
                int count) {
  for (; num_rows >= N; num_rows -= N, rows += N * dim, out += N * stride)
    score_block<N, K>(rows, keys, dim, out, stride, count);
  if constexpr (N > 1)
    if (num_rows > 0) score_rows<K, N - 1>(rows, num_rows, keys, dim, out, stride, count);
}

// Adds N rows of weighted sums of `count` values to out; two vectors of features at a time.
template <int N>
inline void mix_block(const float* weights, int64_t stride, const float* const* values, int64_t dim, float* out,
               int count) {
  for (int64_t d = 0; d < dim; d += 2 * LANES) {
    const int64_t more = d + LANES < dim ? LANES : 0;  // 0: the same lanes twice
    vec a[N], b[N];
    for (int r = 0; r < N; ++r) {
      a[r] = load(out + r * dim + d);
      b[r] = load(out + r * dim + d + more);
    }
    for (int c = 0; c < count; ++c) {
      const vec x = load(values[c] + d), y = load(values[c] + d + more);
      for (int r = 0; r < N; ++r) {
        const float weight = weights[r * stride + c];
        a[r] += weight * x;
        b[r] += weight * y;
      }
    }
    for (int r = 0; r < N; ++r) {
      store(out + r * dim + d, a[r]);
      store(out + r * dim + d + more, b[r]);
    }
  }
}

}  // namespace

// out[h, r, c] = sum_d turned(queries[h, r], run of c)[d] * keys[h, slots[c], d], where
// turned(x, n)[d] = x[d] * cos[n, row, d] + x[partners[d]] * sin[n, row, d] and row = token_row[r % num_tokens].
extern "C" void hogwild_scores(
    const float* queries, const float* cos, const float* sin, const int64_t* partners, const int64_t* token_row,
    const float* keys, const int64_t* slots, const int64_t* run_start, float* out, int64_t heads, int64_t rows,
    int64_t tokens, int64_t dim, int64_t num_slots, int64_t runs, int64_t turns, int64_t columns, int64_t threads) {
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>((threads + heads - 1) / heads, columns / COLUMNS));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t item = 0; item < heads * parts; ++item) {
    const int64_t head = item / parts, part = item % parts;
    const int64_t first = columns * part / parts, last = columns * (part + 1) / parts;
    std::vector<float> turned(rows * dim), swapped(rows * dim);
    const float *query = queries + head * rows * dim, *key = keys + head * num_slots * dim;
    for (int64_t i = 0; i < rows * dim; ++i) swapped[i] = query[i / dim * dim + partners[i % dim]];
    int64_t run = std::upper_bound(run_start, run_start + runs + 1, first) - run_start - 1;
    for (int64_t c = first; c < last; ++run) {
      const int64_t end = std::min(last, run_start[run + 1]);
      if (c >= end) continue;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t angle = (run * turns + token_row[r % tokens]) * dim;
        for (int64_t d = 0; d < dim; d += LANES)
          store(&turned[r * dim + d], load(query + r * dim + d) * load(cos + angle + d) +
                                          load(&swapped[r * dim + d]) * load(sin + angle + d));
      }
      for (; c < end; c += KEYS) {
        const float* at[KEYS];
        const int count = std::min<int64_t>(KEYS, end - c);
        for (int64_t ahead = c + 4 * KEYS; ahead < std::min(last, c + 5 * KEYS); ++ahead)
          for (int64_t d = 0; d < dim; d += LANES) __builtin_prefetch(key + slots[ahead] * dim + d);
        for (int k = 0; k < KEYS; ++k) at[k] = key + slots[c + std::min(k, count - 1)] * dim;
        float* to = out + head * rows * columns + c;
        if (count == 1) score_rows<1>(turned.data(), rows, at, dim, to, columns, count);
        else if (count == 2) score_rows<2>(turned.data(), rows, at, dim, to, columns, count);
        else score_rows<KEYS>(turned.data(), rows, at, dim, to, columns, count);
      }
      c = end;
    }
  }
}

// out[p, h, r, d] = sum over the columns c of part p of weights[h, r, c] * values[h, slots[c], d].
extern "C" void hogwild_mix(
    const float* weights, const float* values, const int64_t* slots, float* out, int64_t heads, int64_t rows,
    int64_t dim, int64_t num_slots, int64_t columns, int64_t parts, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t item = 0; item < heads * parts; ++item) {
    const int64_t head = item / parts, part = item % parts;
    const int64_t last = columns * (part + 1) / parts;
    const float* value = values + head * num_slots * dim;
    float* sums = out + (part * heads + head) * rows * dim;
    std::memset(sums, 0, rows * dim * sizeof(float));
    for (int64_t c = columns * part / parts; c < last; c += COLUMNS) {
      const int count = std::min<int64_t>(COLUMNS, last - c);
      const float* at[COLUMNS];
      for (int k = 0; k < count; ++k) at[k] = value + slots[c + k] * dim;
      for (int64_t ahead = c + COLUMNS; ahead < std::min(last, c + 2 * COLUMNS); ++ahead)
        for (int64_t d = 0; d < dim; d += LANES) __builtin_prefetch(value + slots[ahead] * dim + d);
      const float* w = weights + head * rows * columns + c;
      int64_t r = 0;
      for (; r + 6 <= rows; r += 6) mix_block<6>(w + r * columns, columns, at, dim, sums + r * dim, count);
      for (; r + 3 <= rows; r += 3) mix_block<3>(w + r * columns, columns, at, dim, sums + r * dim, count);
      for (; r < rows; ++r) mix_block<1>(w + r * columns, columns, at, dim, sums + r * dim, count);
    }
  }
}
