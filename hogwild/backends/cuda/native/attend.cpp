// Attention over shared blocks on a CPU, in float32: the contract of the Triton and Metal kernels, by their work list.
//
// An item is computed for one kv head at a time. Its keys are scored in place, each for all rows; the scores and the
// places of the values of up to COLUMNS keys, of as many runs as it takes, are gathered in a tile, and then softmax and
// the sum of values run over the whole tile. So short runs cost little more than long ones. A query is turned once for
// each run. Partial sums of the items are added up by their largest scores.
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

// The arrays and numbers of one layer; shapes as in attention.py.
struct Layer {
  const float* queries;  // [H, T, Dk], rows of Dk side by side
  const void* keys;      // [kv_heads, slots, Dk] float32, or codes with scales
  const void* values;    // [kv_heads, slots, Dv]
  const float *key_scales, *value_scales;  // [kv_heads, slots], null: no codes
  const int32_t *tokens, *items, *order, *segments, *turns, *column_slots;  // see WorkList
  const float *cos, *sin;   // [turns, Dk], times the scale; sin is signed. null: the layer does not turn
  const int64_t* partners;  // [Dk]
  const float* sinks;       // [H] or null
  float *partial, *out;     // [I, kv_heads, rows, Dv + 2], [T, H, Dv]
  int64_t token_stride, head_stride, slots, num_items, num_tokens, num_heads, kv_heads, key_dim, value_dim, max_rows;
  int64_t window, num_columns;
  float scale, softcap;  // softcap 0: none
};

// The rows of an item for one kv head, and the tile that is being filled.
template <class T>
class Item {
 public:
  Item(const Layer& layer, int64_t item, int64_t head)
      : layer_(layer), head_(head), info_(layer.items + item * 5), group_(layer.num_heads / layer.kv_heads),
        rows_(info_[1] * group_), padded_((layer.key_dim + LANES - 1) / LANES * LANES),
        keys_(static_cast<const T*>(layer.keys) + head * layer.slots * layer.key_dim),
        values_(static_cast<const T*>(layer.values) + head * layer.slots * layer.value_dim),
        key_scales_(layer.key_scales ? layer.key_scales + head * layer.slots : nullptr),
        value_scales_(layer.value_scales ? layer.value_scales + head * layer.slots : nullptr),
        turned_(rows_ * padded_), plain_(rows_ * padded_), swapped_(rows_ * padded_), scores_(rows_ * STRIDE),
        reach_(info_[1]), most_(rows_, NOTHING), total_(rows_ * LANES), sums_(rows_ * layer.value_dim) {
    for (int64_t r = 0; r < rows_; ++r) copy_query(r);
  }

  void compute() {
    const int64_t first_column = layer_.segments[info_[2] * 5 + 3];
    for (int64_t s = info_[2], run = -1; s < info_[3]; ++s) {
      const int32_t* segment = layer_.segments + s * 5;
      if (segment[0] != run) begin_run(run = segment[0]);
      const int64_t index = segment[1], end = index + segment[4];
      int64_t low = end, high = index;  // the keys that some token sees
      for (const int64_t reach : reach_) {
        low = std::min(low, std::max(index, reach - layer_.window + 1));
        high = std::max(high, std::min(end, reach + 1));
      }
      const int64_t column = segment[3] - index, nth = column - first_column;  // of key i: + i, the latter in the item
      if (low < high) low = std::max(index, (nth + low) / COLUMNS * COLUMNS - nth);  // a tile is there from its start
      for (int64_t i = low; i < high;) {
        go_to(nth + i, layer_.column_slots[column + i]);
        const int64_t stop = std::min(high, i + COLUMNS - filled_);
        score(column, i, stop);
        i = stop;
      }
    }
    if (filled_) flush();
  }

  // Sums of values `[rows, Dv]`, then the largest scores and the sums of weights `[rows]` each.
  void write(float* partial) const {
    std::copy(sums_.begin(), sums_.end(), partial);
    std::copy(most_.begin(), most_.end(), partial + layer_.max_rows * layer_.value_dim);
    float* totals = partial + layer_.max_rows * (layer_.value_dim + 1);
    for (int64_t r = 0; r < rows_; ++r) totals[r] = sum_of(load(&total_[r * LANES]));
  }

 private:
  // Makes key number `nth` of the item the next one of its tile: tiles lie where they lie when every key is seen. Keys
  // before it that nobody sees are hidden, and stand in `slot`, which somebody wrote.
  void go_to(int64_t nth, int64_t slot) {
    const int64_t start = nth / COLUMNS * COLUMNS;
    if (filled_ && tile_ != start) flush();
    tile_ = start;
    for (; filled_ < nth - start; ++filled_) {
      slots_[filled_] = slot;
      for (int64_t r = 0; r < rows_; ++r) scores_[r * STRIDE + filled_] = NOTHING;
    }
  }

  // A query, scaled if it is not turned, and with the features of each pair in each other's place.
  void copy_query(int64_t r) {
    const int64_t token = info_[0] + r / group_, head = head_ * group_ + r % group_;
    const float* x = layer_.queries + token * layer_.token_stride + head * layer_.head_stride;
    for (int64_t d = 0; d < layer_.key_dim; ++d) {
      plain_[r * padded_ + d] = x[d];
      if (layer_.cos) swapped_[r * padded_ + d] = x[layer_.partners[d]];
      else turned_[r * padded_ + d] = x[d] * layer_.scale;
    }
  }

  // Finds how far into a run each token sees, and turns its queries for it.
  void begin_run(int64_t run) {
    const int64_t size = group_ * padded_, padded = padded_;  // in registers: a store might change a member
    const float *plain = plain_.data(), *swapped = swapped_.data();
    float* turned = turned_.data();
    for (int64_t t = 0; t < info_[1]; ++t, plain += size, swapped += size, turned += size) {
      const int32_t* about = layer_.tokens + (info_[0] + t) * 5;
      const int64_t place = about[1] + run;
      reach_[t] = int64_t{about[0]} + layer_.turns[place];
      if (!layer_.cos) continue;
      const float *cos = layer_.cos + place * layer_.key_dim, *sin = layer_.sin + place * layer_.key_dim;
      each_vector(layer_.key_dim, [=](int64_t d, auto load_angle) {
        const vec c = load_angle(cos + d), s = load_angle(sin + d);
        for (int64_t at = d; at < size; at += padded)
          store(turned + at, load(plain + at) * c + load(swapped + at) * s);
      });
    }
  }

  // Scores the keys `first..stop` of a run, whose key i is column `column + i`, into the tile.
  void score(int64_t column, int64_t first, int64_t stop) {
    const int32_t* slots = layer_.column_slots + column;
    const int start = filled_;
    for (int64_t i = first; i < stop; i += KEYS) {
      const int count = std::min<int64_t>(KEYS, stop - i);
      const T* at[KEYS];
      for (int k = 0; k < KEYS; ++k) {
        const int64_t slot = slots[i + std::min(k, count - 1)];
        at[k] = keys_ + slot * layer_.key_dim;
        if (k < count) slots_[filled_ + k] = slot;
        fetch(values_ + slot * layer_.value_dim, layer_.value_dim);  // for when the tile is full
      }
      if (count > 2) score_rows<KEYS, LANES / KEYS>(at, &scores_[filled_]);
      else score_rows<2, 6>(at, &scores_[filled_]);
      filled_ += count;
      next_ = column + i + count;
    }
    if (key_scales_) scale_scores(start);
    if (layer_.softcap > 0) cap(start);
    hide(first, start);
  }

  // Some of the next tile's keys, while this one is summed.
  void fetch_keys(int64_t first, int64_t last) const {
    last = std::min(last, layer_.num_columns);
    for (int64_t c = first; c < last; ++c) fetch(keys_ + layer_.column_slots[c] * layer_.key_dim, layer_.key_dim);
  }

  static void fetch(const T* x, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 64 / sizeof(T)) __builtin_prefetch(x + d);
  }

  // Up to N rows at once. Scores of keys that are there twice are overwritten, or never read.
  template <int K, int N>
  void score_rows(const T* const* keys, float* to, int64_t row = 0) {
    for (; row + N <= rows_; row += N) {
      float flat[LANES];
      store(flat, dot_block<N, K>(&turned_[row * padded_], padded_, keys, layer_.key_dim));
      for (int r = 0; r < N; ++r) std::memcpy(to + (row + r) * STRIDE, flat + r * K, K * sizeof(float));
    }
    if constexpr (N > 1)
      if (row < rows_) score_rows<K, (N > 4 ? N / 2 : N - 1)>(keys, to, row);
  }

  void scale_scores(int start) {
    for (int c = start; c < filled_; ++c)
      for (int64_t r = 0; r < rows_; ++r) scores_[r * STRIDE + c] *= key_scales_[slots_[c]];
  }

  void cap(int start) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int c = start; c < filled_; ++c) {
        float& score = scores_[r * STRIDE + c];
        score = layer_.softcap * std::tanh(score / layer_.softcap);
      }
  }

  // Tokens whose reach ends before a key, or began after it, do not see it. Key `first` is column `start` of the tile.
  void hide(int64_t first, int start) {
    for (int64_t t = 0; t < info_[1]; ++t) {
      const int64_t from = std::clamp<int64_t>(start + reach_[t] - layer_.window + 1 - first, start, filled_);
      const int64_t to = std::clamp<int64_t>(start + reach_[t] + 1 - first, start, filled_);
      if (from == start && to == filled_) continue;
      for (int64_t r = t * group_; r < (t + 1) * group_; ++r) {
        float* scores = &scores_[r * STRIDE];
        std::fill(scores + start, scores + from, NOTHING);
        std::fill(scores + to, scores + filled_, NOTHING);
      }
    }
  }

  // Softmax over the tile against the largest score so far, and its sum of values.
  void flush() {
    const T* at[COLUMNS];
    for (int c = 0; c < filled_; ++c) at[c] = values_ + slots_[c] * layer_.value_dim;
    for (int64_t r = 0; r < rows_; ++r) {
      weigh(r);
      fetch_keys(next_ + r * COLUMNS / rows_, next_ + (r + 1) * COLUMNS / rows_);
    }
    int64_t row = 0;
    for (; row + 6 <= rows_; row += 6) mix<6>(at, row);
    for (; row + 3 <= rows_; row += 3) mix<3>(at, row);
    for (; row < rows_; ++row) mix<1>(at, row);
    filled_ = 0;
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
      for (int c = 0; c < filled_; ++c) scores[c] *= value_scales_[slots_[c]];
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
  const int64_t head_;
  const int32_t* info_;
  const int64_t group_, rows_, padded_;
  const T *keys_, *values_;
  const float *key_scales_, *value_scales_;
  std::vector<float> turned_, plain_, swapped_, scores_;
  std::vector<int64_t> reach_;
  std::vector<float> most_, total_, sums_;
  int64_t slots_[COLUMNS];
  int64_t tile_ = 0;  // number of its first key in the item
  int filled_ = 0;
  int64_t next_ = 0;  // the column behind the tile
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
    Item<T> item(layer, work / layer.kv_heads, work % layer.kv_heads);
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
