// The partial results of all items that a token took part in, added up by their log-sum-exp. One simdgroup for each
// token and head; sinks take their share of the softmax and give no value.
const uint lane = thread_index_in_simdgroup;
const int token_index = threadgroup_position_in_grid.z, head = threadgroup_position_in_grid.y;
constexpr int FEATURES = 256 / LANES;

const int kv_heads = partial_shape[1], stored_rows = partial_shape[2], value_dim = partial_shape[3];
const int group_size = int(threadgroups_per_grid.y) / kv_heads;
const Token token = token_at(tables, token_index);
const ulong row = ulong(head / group_size) * stored_rows + token.place * group_size + head % group_size;
const ulong step = ulong(kv_heads) * stored_rows;

float best = LOWEST;
for (int i = token.start + int(lane); i < token.end; i += LANES) {
  best = max(best, partial_lse[row + listed_at(tables, i) * step]);
}
best = simd_max(best);

float total = 0.0f, sum[FEATURES];
UNROLL
for (int e = 0; e < FEATURES; e++) {
  sum[e] = 0.0f;
}
for (int first = token.start; first < token.end; first += LANES) {
  const int count = min(LANES, token.end - first);
  const int item = int(lane) < count ? listed_at(tables, first + int(lane)) : 0;
  float share = 0.0f;
  if (int(lane) < count) {
    const float lse = partial_lse[row + item * step];
    share = lse == -INFINITY ? 0.0f : precise::exp(lse - best);
  }
  total += simd_sum(share);
  for (int i = 0; i < count; i++) {
    const float weight = simd_broadcast(share, ushort(i));
    const int source = simd_broadcast(item, ushort(i));
    if (weight == 0.0f) {
      continue;
    }
    UNROLL
    for (int e = 0; e < FEATURES; e++) {
      const int feature = int(lane) + LANES * e;
      if (feature < value_dim) {
        sum[e] += weight * partial[(row + source * step) * value_dim + feature];
      }
    }
  }
}

const float whole = total + (sizes[0] ? precise::exp(sinks[head] - best) : 0.0f);
const ulong at = ulong(token_index) * threadgroups_per_grid.y + head;
UNROLL
for (int e = 0; e < FEATURES; e++) {
  const int feature = int(lane) + LANES * e;
  if (feature < value_dim) {
    out[at * value_dim + feature] = O(whole == 0.0f ? 0.0f : sum[e] / whole);
  }
}
if (lane == 0) {
  log_sum_exp[at] = total == 0.0f ? -INFINITY : best + precise::log(total);
}
