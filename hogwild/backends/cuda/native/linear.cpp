// y = x @ w.T + bias for a few rows of x, in float32: w is read once for all rows, and fetched ahead of its use.
//
// A BLAS copies w into an order of its own when there are more than two rows, which takes longer than the product.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int OUTPUTS = 4;

struct Product {
  const float *x, *w, *bias;  // [M, K], [N, K], [N] or null
  float* y;                   // [M, N]
  int64_t rows, outputs, dim;
};

// As many rows at once as there are lanes for; the first of them fetch the weights of the next OUTPUTS.
template <int N = LANES / OUTPUTS>
void rows_of(const Product& p, int64_t output, int64_t row = 0) {
  const int count = std::min<int64_t>(OUTPUTS, p.outputs - output);
  const float* w[OUTPUTS];
  for (int k = 0; k < OUTPUTS; ++k) w[k] = p.w + (output + std::min(k, count - 1)) * p.dim;
  for (; row + N <= p.rows; row += N) {
    float flat[LANES];
    store(flat, dot_block<N, OUTPUTS>(p.x + row * p.dim, p.dim, w, p.dim, row ? 0 : OUTPUTS * p.dim));
    for (int r = 0; r < N; ++r)
      for (int k = 0; k < count; ++k)
        p.y[(row + r) * p.outputs + output + k] = flat[r * OUTPUTS + k] + (p.bias ? p.bias[output + k] : 0.0f);
  }
  if constexpr (N > 1)
    if (row < p.rows) rows_of<N - 1>(p, output, row);
}

}  // namespace

extern "C" void hogwild_linear(const float* x, const float* w, const float* bias, float* y, int64_t rows,
                               int64_t outputs, int64_t dim, int64_t threads) {
  const Product product{x, w, bias, y, rows, outputs, dim};
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t output = 0; output < outputs; output += OUTPUTS) rows_of(product, output);
}
