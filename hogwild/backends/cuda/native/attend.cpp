// Attention over shared blocks on a CPU, in float32: the contract of the Triton and Metal kernels.
//
// An item is computed for one kv head at a time. Its keys are scored in place, each for all rows; the scores of COLUMNS
// keys make a tile, and then softmax and the sum of values run over the whole tile. A query is turned for the item's
// block, and from there for each segment: keys of one shift, of many steps. So a step may be short. Partial sums of the
// items are added up by their largest scores.
//
// Who else is in the pass changes no bit of a row: tiles begin at fixed places of the item, a row's numbers are
// computed in one order whatever rows stand beside it, and a key that it does not see adds an exact zero.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int KEYS = 4, COLUMNS = 64, STRIDE = COLUMNS + LANES;
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// Angles of some offsets: cos and signed sin, `[n, Dk]`; null where the layer does not turn.
struct Angles {
  const float *cos, *sin;
};

// The arrays and numbers of one layer; the tables are those of `WorkList`, but for what turns.py says. `fetch_slots`:
// `column_slots`, ascending among the columns of an item.
struct Layer {
  const float* queries;  // [H, T, Dk], rows of Dk side by side
  const void* keys;      // [kv_heads, slots, Dk] float32, or codes with scales
  const void* values;    // [kv_heads, slots, Dv]
  const float *key_scales, *value_scales;  // [kv_heads, slots], null: no codes
  const int32_t *tokens, *items, *order, *segments, *column_slots, *fetch_slots, *column_index, *turns;
  Angles of_turns, of_shifts;  // times the scale; of each segment
  const int64_t* partners;     // [Dk]
  const float* sinks;          // [H] or null
  float *partial, *out;        // [I, kv_heads, rows, Dv + 2], [T, H, Dv]
  int64_t token_stride, head_stride, slots, num_items, num_tokens, num_heads, kv_heads, key_dim, value_dim, max_rows;
  int64_t window, num_columns;
  float scale, softcap;  // softcap 0: none
};

int64_t end_of(const Layer& layer, int64_t segment) {
  return layer.segments[segment * 3 + 1] + layer.segments[segment * 3 + 2];
}

// What a thread computes at a time: the columns of an item, for one kv head.
struct Part {
  int64_t begin, end, head;
};

Part part_of(const Layer& layer, int64_t work) {
  if (work >= layer.num_items * layer.kv_heads) return {0, 0, 0};
  const int32_t* info = layer.items + work / layer.kv_heads * 5;
  return {layer.segments[info[2] * 3 + 1], end_of(layer, info[3] - 1), work % layer.kv_heads};
}

// The rows of an item for one kv head, and the tile at hand. `next` is the work that the thread will probably do then.
template <class T>
class Item {
 public:
  Item(const Layer& layer, int64_t work, int64_t next)
      : layer_(layer), own_(part_of(layer, work)), next_(part_of(layer, next)),
        info_(layer.items + work / layer.kv_heads * 5), group_(layer.num_heads / layer.kv_heads),
        rows_(info_[1] * group_), padded_((layer.key_dim + LANES - 1) / LANES * LANES),
        keys_(static_cast<const T*>(layer.keys) + own_.head * layer.slots * layer.key_dim),
        values_(static_cast<const T*>(layer.values) + own_.head * layer.slots * layer.value_dim),
        key_scales_(layer.key_scales ? layer.key_scales + own_.head * layer.slots : nullptr),
        value_scales_(layer.value_scales ? layer.value_scales + own_.head * layer.slots : nullptr),
        plain_(rows_ * padded_), swapped_(layer.partners ? rows_ * padded_ : 0), turned_(swapped_.size()),
        scores_(rows_ * STRIDE), reach_(info_[1]), most_(rows_, NOTHING), total_(rows_ * LANES),
        sums_(rows_ * layer.value_dim), segment_(info_[2]) {
    for (int64_t t = 0; t < info_[1]; ++t) copy_queries(t);
    farthest_ = *std::max_element(reach_.begin(), reach_.end());
    nearest_ = *std::min_element(reach_.begin(), reach_.end());
  }

  void compute() {
    for (tile_ = own_.begin; tile_ < own_.end; tile_ += COLUMNS) {
      filled_ = std::min<int64_t>(COLUMNS, own_.end - tile_);
      int32_t low = layer_.column_index[tile_], high = low;
      for (int64_t c = tile_; c < tile_ + filled_; ++c) {  // without a branch, unlike std::minmax_element
        low = std::min(low, layer_.column_index[c]);
        high = std::max(high, layer_.column_index[c]);
      }
      if (low > farthest_ || high <= nearest_ - layer_.window) continue;  // nobody sees a key of it
      score();
      hide(low, high);
      add();
    }
  }

  // Sums of values `[rows, Dv]`, then the largest scores and the sums of weights `[rows]` each.
  void write(float* partial) const {
    std::copy(sums_.begin(), sums_.end(), partial);
    std::copy(most_.begin(), most_.end(), partial + layer_.max_rows * layer_.value_dim);
    float* totals = partial + layer_.max_rows * (layer_.value_dim + 1);
    for (int64_t r = 0; r < rows_; ++r) totals[r] = sum_of(load(&total_[r * LANES]));
  }

 private:
  // Finds how far a token sees in the block, and copies its queries: turned for the block, or scaled.
  void copy_queries(int64_t t) {
    const int32_t* about = layer_.tokens + (info_[0] + t) * 5;
    const int64_t place = about[1] + info_[4];
    reach_[t] = int64_t{about[0]} + layer_.turns[place];
    for (int64_t r = t * group_; r < (t + 1) * group_; ++r) {
      const int64_t head = own_.head * group_ + r % group_;
      const float* x = layer_.queries + (info_[0] + t) * layer_.token_stride + head * layer_.head_stride;
      if (layer_.partners) turn_for_block(x, place, &plain_[r * padded_], &swapped_[r * padded_]);
      else
        for (int64_t d = 0; d < layer_.key_dim; ++d) plain_[r * padded_ + d] = x[d] * layer_.scale;
    }
  }

  // `swapped` has the features of each pair in each other's place.
  void turn_for_block(const float* x, int64_t place, float* plain, float* swapped) const {
    const int64_t dim = layer_.key_dim;
    const float *cos = layer_.of_turns.cos + place * dim, *sin = layer_.of_turns.sin + place * dim;
    for (int64_t d = 0; d < dim; ++d) plain[d] = x[d] * cos[d] + x[layer_.partners[d]] * sin[d];
    for (int64_t d = 0; d < dim; ++d) swapped[d] = plain[layer_.partners[d]];
  }

  // Turns the queries from where they are for the block to the segment at hand.
  void turn() {
    turned_for_ = segment_;
    const int64_t size = rows_ * padded_, padded = padded_;  // in registers: a store might change a member
    const float *plain = plain_.data(), *swapped = swapped_.data();
    const float *cos = layer_.of_shifts.cos + segment_ * layer_.key_dim;
    const float *sin = layer_.of_shifts.sin + segment_ * layer_.key_dim;
    float* turned = turned_.data();
    each_vector(layer_.key_dim, [=](int64_t d, auto load_angle) {
      const vec c = load_angle(cos + d), s = load_angle(sin + d);
      for (int64_t at = d; at < size; at += padded)
        store(turned + at, load(plain + at) * c + load(swapped + at) * s);
    });
  }

  // Scores the keys of the tile, segment by segment.
  void score() {
    for (int from = 0; from < filled_;) {
      while (end_of(layer_, segment_) <= tile_ + from) ++segment_;
      if (layer_.partners && turned_for_ != segment_) turn();
      const int to = std::min<int64_t>(filled_, end_of(layer_, segment_) - tile_);
      for (; to - from > 2; from += KEYS) score_keys<KEYS, LANES / KEYS>(from, to);
      if (from < to) score_keys<2, 6>(from, to);
      from = to;
    }
    if (key_scales_) scale_scores();
    if (layer_.softcap > 0) cap();
  }

  // K keys from `from` on for all rows, N at once. The last one before `to` stands for those that are missing.
  template <int K, int N>
  void score_keys(int from, int to) {
    const T* at[K];
    for (int k = 0; k < K; ++k) {
      const int64_t slot = layer_.column_slots[tile_ + std::min(from + k, to - 1)];
      at[k] = keys_ + slot * layer_.key_dim;
      fetch(values_ + slot * layer_.value_dim, layer_.value_dim);  // for when the tile is full
    }
    score_rows<K, N>(at, &scores_[from]);
  }

  // Some of the next tile's keys, while this one is summed.
  INLINE void fetch_keys(int64_t first, int64_t last) const {
    last = std::min(last, layer_.num_columns);
    for (int64_t c = first; c < last; ++c) fetch(keys_ + layer_.column_slots[c] * layer_.key_dim, layer_.key_dim);
  }

  // As large a part of what comes next as the tile is of this item, to the second level of the cache. In the order of
  // memory, in which the processor itself fetches what follows; the order of use has many gaps if steps are short.
  INLINE void fetch_next() const {
    const int64_t columns = own_.end - own_.begin, fetched = next_.end - next_.begin, done = tile_ - own_.begin;
    const int32_t* first = layer_.fetch_slots + next_.begin + done * fetched / columns;
    const int32_t* last = layer_.fetch_slots + next_.begin + (done + filled_) * fetched / columns;
    const T* keys = keys_ + (next_.head - own_.head) * layer_.slots * layer_.key_dim;
    const T* values = values_ + (next_.head - own_.head) * layer_.slots * layer_.value_dim;
    for (auto slot = first; slot < last; ++slot) fetch<2>(keys + *slot * layer_.key_dim, layer_.key_dim);
    for (auto slot = first; slot < last; ++slot) fetch<2>(values + *slot * layer_.value_dim, layer_.value_dim);
  }

  template <int LOCALITY = 3>
  INLINE static void fetch(const T* x, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 64 / sizeof(T)) __builtin_prefetch(x + d, 0, LOCALITY);
  }

  // Up to N rows at once. Scores of keys that are there twice are overwritten, or never read.
  template <int K, int N>
  void score_rows(const T* const* keys, float* to, int64_t row = 0) {
    for (; row + N <= rows_; row += N) {
      float flat[LANES];
      store(flat, dot_block<N, K>(asked() + row * padded_, padded_, keys, layer_.key_dim));
      for (int r = 0; r < N; ++r) std::memcpy(to + (row + r) * STRIDE, flat + r * K, K * sizeof(float));
    }
    if constexpr (N > 1)
      if (row < rows_) score_rows<K, (N > 4 ? N / 2 : N - 1)>(keys, to, row);
  }

  const float* asked() const { return layer_.partners ? turned_.data() : plain_.data(); }

  int64_t slot(int c) const { return layer_.column_slots[tile_ + c]; }

  void scale_scores() {
    for (int c = 0; c < filled_; ++c)
      for (int64_t r = 0; r < rows_; ++r) scores_[r * STRIDE + c] *= key_scales_[slot(c)];
  }

  void cap() {
    for (int64_t r = 0; r < rows_; ++r)
      for (int c = 0; c < filled_; ++c) {
        float& score = scores_[r * STRIDE + c];
        score = layer_.softcap * std::tanh(score / layer_.softcap);
      }
  }

  // A token sees the keys up to its reach, and of these only the window's. The tile's have indices from low to high.
  void hide(int64_t low, int64_t high) {
    for (int64_t t = 0; t < info_[1]; ++t) {
      if (high <= reach_[t] && low > reach_[t] - layer_.window) continue;
      for (int c = 0; c < filled_; ++c) {
        const int64_t distance = reach_[t] - layer_.column_index[tile_ + c];
        if (distance >= 0 && distance < layer_.window) continue;
        for (int64_t r = t * group_; r < (t + 1) * group_; ++r) scores_[r * STRIDE + c] = NOTHING;
      }
    }
  }

  // Softmax over the tile against the largest score so far, and its sum of values.
  void add() {
    const T* at[COLUMNS];
    for (int c = 0; c < filled_; ++c) at[c] = values_ + slot(c) * layer_.value_dim;
    const int64_t next = tile_ + filled_;
    fetch_next();
    for (int64_t r = 0; r < rows_; ++r) {
      weigh(r);
      fetch_keys(next + r * COLUMNS / rows_, next + (r + 1) * COLUMNS / rows_);
    }
    int64_t row = 0;
    for (; row + 6 <= rows_; row += 6) mix<6>(at, row);
    for (; row + 3 <= rows_; row += 3) mix<3>(at, row);
    for (; row < rows_; ++row) mix<1>(at, row);
  }

  void weigh(int64_t row) {
    float *scores = &scores_[row * STRIDE], *sums = &sums_[row * layer_.value_dim];
    if (filled_ % LANES) store(scores + filled_, all(NOTHING));
    vec most = all(NOTHING);
    for (int c = 0; c < filled_; c += LANES) most = larger(load(scores + c), most);
    const float largest = std::max(most_[row], max_of(most));
    const vec base = all(largest == NOTHING ? 0.0f : largest);
    vec total{};
    for (int c = 0; c < filled_; c += LANES) {
      const vec weight = exp_of(load(scores + c) - base);
      store(scores + c, weight);
      total += weight;
    }
    if (largest > most_[row]) {
      const float shrink = most_[row] == NOTHING ? 0.0f : exp_of(all(most_[row] - largest))[0];
      for (int64_t d = 0; d < layer_.value_dim; ++d) sums[d] *= shrink;
      total += load(&total_[row * LANES]) * shrink;
      most_[row] = largest;
    } else {
      total += load(&total_[row * LANES]);
    }
    store(&total_[row * LANES], total);
    if (value_scales_)
      for (int c = 0; c < filled_; ++c) scores[c] *= value_scales_[slot(c)];
  }

  // Adds the tile's weighted values to the sums of N rows; two vectors of features at a time, first within the tile.
  template <int N>
  void mix(const T* const* values, int64_t row) {
    const int64_t dim = layer_.value_dim;
    const float* weights = &scores_[row * STRIDE];
    int64_t d = 0;
    for (; d + 2 * LANES <= dim; d += 2 * LANES) {
      vec a[N] = {}, b[N] = {};
      for (int c = 0; c < filled_; ++c) {
        const vec x = load(values[c] + d), y = load(values[c] + d + LANES);
        for (int r = 0; r < N; ++r) {
          a[r] += weights[r * STRIDE + c] * x;
          b[r] += weights[r * STRIDE + c] * y;
        }
      }
      for (int r = 0; r < N; ++r) {
        float* to = &sums_[(row + r) * dim + d];
        store(to, load(to) + a[r]);
        store(to + LANES, load(to + LANES) + b[r]);
      }
    }
    for (; d < dim; d += LANES) {
      const int64_t n = std::min<int64_t>(LANES, dim - d);
      vec a[N] = {};
      for (int c = 0; c < filled_; ++c) {
        const vec x = load_part(values[c] + d, n);
        for (int r = 0; r < N; ++r) a[r] += weights[r * STRIDE + c] * x;
      }
      for (int r = 0; r < N; ++r)
        for (int64_t j = 0; j < n; ++j) sums_[(row + r) * dim + d + j] += a[r][j];
    }
  }

  const Layer& layer_;
  const Part own_, next_;
  const int32_t* info_;
  const int64_t group_, rows_, padded_;
  const T *keys_, *values_;
  const float *key_scales_, *value_scales_;
  std::vector<float> plain_, swapped_, turned_, scores_;
  std::vector<int64_t> reach_;
  std::vector<float> most_, total_, sums_;
  int64_t farthest_, nearest_;         // of reach_
  int64_t segment_, turned_for_ = -1;  // the one at hand, and that of `turned_`
  int64_t tile_ = 0;                   // its first key
  int filled_ = 0;                     // how many it has
};

// The output of one token and query head: its chunk's items added up.
void merge(const Layer& layer, int64_t token, int64_t head) {
  const int64_t group = layer.num_heads / layer.kv_heads, dim = layer.value_dim;
  const int32_t* about = layer.tokens + token * 5;
  const int64_t row = about[2] * group + head % group, size = layer.max_rows * (dim + 2);
  float *out = layer.out + (token * layer.num_heads + head) * dim;
  float most = layer.sinks ? layer.sinks[head] : NOTHING, total = layer.sinks ? 1.0f : 0.0f;
  std::fill(out, out + dim, 0.0f);
  for (int64_t nth = about[3]; nth < about[4]; ++nth) {
    const float* part = layer.partial + (layer.order[nth] * layer.kv_heads + head / group) * size;
    const float part_most = part[layer.max_rows * dim + row], part_total = part[layer.max_rows * (dim + 1) + row];
    const float largest = std::max(most, part_most);
    const float shrink = most == NOTHING ? 0.0f : std::exp(most - largest);
    const float weight = part_most == NOTHING && part_total == 0 ? 0.0f : std::exp(part_most - largest);
    for (int64_t d = 0; d < dim; ++d) out[d] = out[d] * shrink + part[row * dim + d] * weight;
    total = total * shrink + part_total * weight;
    most = largest;
  }
  if (total != 0)
    for (int64_t d = 0; d < dim; ++d) out[d] /= total;
}

template <class T>
void attend(const Layer& layer, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
  for (int64_t work = 0; work < layer.num_items * layer.kv_heads; ++work) {
    Item<T> item(layer, work, work + threads);
    item.compute();
    item.write(layer.partial + work * layer.max_rows * (layer.value_dim + 2));
  }
  for (int64_t token = 0; token < layer.num_tokens; ++token)
    for (int64_t head = 0; head < layer.num_heads; ++head) merge(layer, token, head);
}

}  // namespace

extern "C" void hogwild_attend(const Layer* layer, int64_t threads) {
  if (layer->key_scales) attend<int8_t>(*layer, threads);
  else attend<float>(*layer, threads);
}
