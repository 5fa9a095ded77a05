// Stores the keys or the values of new tokens in the pool.

#include <cstdint>

// from: `[heads, tokens, dim]`, rows of dim side by side; to: `[heads, slots, dim]`; at: `[tokens]` slots. Returns
// whether every number is finite.
extern "C" int64_t hogwild_write(const float* from, int64_t head_stride, int64_t token_stride, float* to, int64_t slots,
                                 const int64_t* at, int64_t heads, int64_t tokens, int64_t dim) {
  float zero = 0;  // becomes NaN by a number that is not finite
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t t = 0; t < tokens; ++t) {
      const float* x = from + h * head_stride + t * token_stride;
      float* y = to + (h * slots + at[t]) * dim;
      for (int64_t d = 0; d < dim; ++d) zero += (y[d] = x[d]) * 0.0f;
    }
  return zero == 0;
}
