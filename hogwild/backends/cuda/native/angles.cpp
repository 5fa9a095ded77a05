// cos and signed sin of many offsets, spread over all features of a head.

#include <cstdint>

namespace {
constexpr int LOW_BITS = 10;  // of hogwild.core.rotary
}

// An offset's angles are the product of two complex numbers in float64, those of its upper and of its lower bits,
// rounded once. high `[.., pairs]`, whose entry 0 is offset -most, and low `[1024, pairs]`; cos and sin `[count, dim]`
// float32, times the scale. first and second: the features of each pair; other features have cos = scale and sin = 0.
extern "C" void hogwild_angles(const int32_t* offsets, int64_t count, const double* high, const double* low,
                               int64_t most, const int64_t* first, const int64_t* second, int64_t pairs, int64_t dim,
                               double scale, float* cos, float* sin) {
  for (int64_t i = 0; i < count; ++i, cos += dim, sin += dim) {
    const int64_t offset = offsets[i] + most;
    const double* a = high + (offset >> LOW_BITS) * pairs * 2;
    const double* b = low + (offset & ((1 << LOW_BITS) - 1)) * pairs * 2;
    for (int64_t d = 0; d < dim; ++d) cos[d] = scale, sin[d] = 0;
    for (int64_t p = 0; p < pairs; ++p) {
      const float c = scale * static_cast<float>(a[2 * p] * b[2 * p] - a[2 * p + 1] * b[2 * p + 1]);
      const float s = scale * static_cast<float>(a[2 * p] * b[2 * p + 1] + a[2 * p + 1] * b[2 * p]);
      cos[first[p]] = cos[second[p]] = c;
      sin[first[p]] = -s;
      sin[second[p]] = s;
    }
  }
}
