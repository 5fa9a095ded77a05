// What the kernels share. A pass's tables come in one array, see hogwild/backends/mlx/kernels/tables.py; what their
// columns mean is said in hogwild/core/work.py.
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
using namespace metal;

// Arrays that live in registers must be indexed by constants.
#define UNROLL _Pragma("clang loop unroll(full)")

constexpr constant int LANES = 32;
constexpr constant int LARGEST_OFFSET = 1 << 20;  // MAX_OFFSET of hogwild/core/rotary.py
constexpr constant int LOW_BITS = 10;             // of an offset; the rest chooses a row of the other table
constexpr constant int UNSEEN = -(1 << 30);
constexpr constant float LOWEST = -3.402823466e+38f;  // stands for minus infinity, so that differences stay numbers

struct Item {
  int first_token;
  int num_tokens;
  int first_segment;
  int end_segment;
  int block;
};

struct Segment {
  int run;
  int column;
  int count;
};

struct Token {
  int position;
  int first_turn;
  int place;
  int start;  // of its items in the order
  int end;
};

inline Item item_at(const device int* tables, int i) {
  const device int* row = tables + tables[0] + 5 * i;
  return {row[0], row[1], row[2], row[3], row[4]};
}

inline Segment segment_at(const device int* tables, int i) {
  const device int* row = tables + tables[1] + 3 * i;
  return {row[0], row[1], row[2]};
}

inline Token token_at(const device int* tables, int i) {
  const device int* row = tables + tables[5] + 5 * i;
  return {row[0], row[1], row[2], row[3], row[4]};
}

inline int turn_at(const device int* tables, int i) { return tables[tables[2] + i]; }

inline int offset_at(const device int* tables, int i) { return tables[tables[3] + i]; }

inline int listed_at(const device int* tables, int i) { return tables[tables[6] + i]; }

inline int slot_at(const device int* tables, int column) { return tables[tables[4] + column]; }

inline int index_at(const device int* tables, int column) { return tables[tables[7] + column]; }

// How one layer turns: pair i of its features by `offset * inv_freq[i]`.
struct Rotary {
  int start;
  int num_pairs;
  int interleaved;
};

// cos and sin of one part of an offset, then what float32 rounded off them; `[pairs, 4]`.
struct Angles {
  const device float* high;
  const device float* low;
};

inline Angles angles_of(int offset, Rotary rotary, const device float* high, const device float* low) {
  const int row = (offset + LARGEST_OFFSET) >> LOW_BITS;
  const int rest = offset & ((1 << LOW_BITS) - 1);
  return {high + 4 * rotary.num_pairs * row, low + 4 * rotary.num_pairs * rest};
}

// a b + c d + rest, as if rounded about once (Kahan's method).
inline float sum_of_products(float a, float b, float c, float d, float rest) {
  const float product = c * d;
  return metal::fma(a, b, product) + (metal::fma(c, d, -product) + rest);
}

// One feature of a query that is turned. Both features of a pair are read, so no lane needs another lane's.
template <typename Q>
inline float turned(const device Q* query, int feature, Rotary rotary, Angles angles) {
  const float own = float(query[feature]);
  const int i = feature - rotary.start;
  if (i < 0 || i >= 2 * rotary.num_pairs) {
    return own;
  }
  const int pair = rotary.interleaved ? i / 2 : i % rotary.num_pairs;
  const bool second = rotary.interleaved ? i % 2 == 1 : i >= rotary.num_pairs;
  const int step = rotary.interleaved ? 1 : rotary.num_pairs;
  const float other = float(query[second ? feature - step : feature + step]);
  const device float* h = angles.high + 4 * pair;
  const device float* l = angles.low + 4 * pair;
  const float c = sum_of_products(h[0], l[0], -h[1], l[1], h[0] * l[2] + h[2] * l[0] - h[1] * l[3] - h[3] * l[1]);
  const float s = sum_of_products(h[1], l[0], h[0], l[1], h[1] * l[2] + h[3] * l[0] + h[0] * l[3] + h[2] * l[1]);
  return sum_of_products(own, c, second ? other : -other, s, 0.0f);
}

// Which keys of a block the tokens of a chunk may reach: none past `most`, and none below `least - window`.
struct Reach {
  int most;
  int least;
};

// One lane looks at one token, hence at most 32 tokens in a chunk.
inline Reach reach_of(const device int* tables, Item item, int run, uint lane) {
  int reach = UNSEEN;
  if (int(lane) < item.num_tokens) {
    const Token token = token_at(tables, item.first_token + lane);
    reach = token.position + turn_at(tables, token.first_turn + run);
  }
  return {simd_max(reach), simd_min(reach < 0 ? -UNSEEN : reach)};
}

// Whether no token of the chunk sees any key whose index is in `first..last`.
inline bool hidden(Reach reach, int first, int last, int window) {
  return reach.most < first || reach.least - last >= window;
}

// A key is seen from a distance that is not negative and below the window.
inline bool sees(int reach, int index, int window) { return uint(reach - index) < uint(window); }

inline float capped(float score, float softcap) {
  return softcap > 0.0f ? softcap * precise::tanh(score / softcap) : score;
}
