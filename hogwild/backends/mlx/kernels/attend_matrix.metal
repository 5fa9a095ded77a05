// Enough query rows for products of 8 x 8 matrices. The threadgroup reads a tile of keys, then of values, into its own
// memory, once for all rows. Codes become whole numbers there; a key's scale goes to its scores, a value's to its
// weights. Template: T (of the queries), ROWS, KEYS (of a tile, at most 32), CAPACITY (features), SIMDGROUPS, QUANTIZED
// (K and V are codes). ROWS / 8 and CAPACITY / 8 are multiples of what a simdgroup takes.
const uint lane = thread_index_in_simdgroup;
const int simdgroup = simdgroup_index_in_threadgroup;
constexpr int ROW_BLOCKS = ROWS / 8, KEY_BLOCKS = KEYS / 8, COLUMN_BLOCKS = CAPACITY / 8 / SIMDGROUPS;
constexpr int OWN_ROWS = ROWS / SIMDGROUPS;               // whose softmax a simdgroup computes
constexpr int STRIDE = CAPACITY + 16 / int(sizeof(T));    // so that the rows of a block start in different banks

const int kv_heads = keys_shape[0], num_slots = keys_shape[1], key_dim = keys_shape[2], value_dim = values_shape[2];
const int num_heads = queries_shape[1], group_size = num_heads / kv_heads;
const int window = sizes[0], stored_rows = sizes[1];
const Rotary rotary = {sizes[2], sizes[3], sizes[4]};
const float scale = reals[0], softcap = reals[1];

const int item_index = threadgroup_position_in_grid.z;
const int kv_head = threadgroup_position_in_grid.y % kv_heads;
const int first_row = threadgroup_position_in_grid.y / kv_heads * ROWS;
const Item item = item_at(tables, item_index);
const int num_rows = min(ROWS, item.num_tokens * group_size - first_row);
if (num_rows <= 0) {
  return;
}

threadgroup T query_tile[ROWS * STRIDE];
threadgroup T tile[KEYS * STRIDE];
threadgroup float scores[ROWS * KEYS];
threadgroup float factors[ROWS * 8];  // each row's factor, eight times: multiplied with a block element by element

simdgroup_matrix<float, 8, 8> sums[ROW_BLOCKS][COLUMN_BLOCKS];
UNROLL
for (int b = 0; b < ROW_BLOCKS; b++) {
  UNROLL
  for (int j = 0; j < COLUMN_BLOCKS; j++) {
    sums[b][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
}
float best[OWN_ROWS], total[OWN_ROWS];
int row_reach[OWN_ROWS];
UNROLL
for (int i = 0; i < OWN_ROWS; i++) {
  best[i] = LOWEST;
  total[i] = 0.0f;
  row_reach[i] = UNSEEN;
}

for (int s = item.first_segment; s < item.end_segment; s++) {
  const Segment segment = segment_at(tables, s);
  const Reach reach = reach_of(tables, item, segment.run, lane);
  bool is_turned = false;
  for (int first = 0; first < segment.count; first += KEYS) {
    const int column = segment.column + first, count = min(KEYS, segment.count - first);
    if (hidden(reach, index_at(tables, column), index_at(tables, column + count - 1), window)) {
      continue;
    }
    if (!is_turned) {
      is_turned = true;
      UNROLL
      for (int i = 0; i < OWN_ROWS; i++) {
        const int r = simdgroup + SIMDGROUPS * i, row = first_row + min(r, num_rows - 1);
        const int t = item.first_token + row / group_size, head = kv_head * group_size + row % group_size;
        const Token token = token_at(tables, t);
        const Angles angles = angles_of(offset_at(tables, token.first_turn + segment.run), rotary, high, low);
        row_reach[i] = r < num_rows ? token.position + turn_at(tables, token.first_turn + segment.run) : UNSEEN;
        for (int f = int(lane); f < key_dim; f += LANES) {
          query_tile[r * STRIDE + f] =
              T(turned(queries + (ulong(t) * num_heads + head) * key_dim, f, rotary, angles));
        }
      }
    }
    for (int c = simdgroup; c < KEYS; c += SIMDGROUPS) {
      const int slot = c < count ? slot_at(tables, column + c) : -1;
      load_row(keys + (ulong(kv_head) * num_slots + max(slot, 0)) * key_dim, tile + c * STRIDE, key_dim, slot >= 0, lane);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int b = simdgroup; b < ROW_BLOCKS * KEY_BLOCKS; b += SIMDGROUPS) {
      const int row_block = b / KEY_BLOCKS, key_block = b % KEY_BLOCKS;
      if (row_block * 8 >= num_rows) {
        break;
      }
      simdgroup_matrix<float, 8, 8> products = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      for (int f = 0; f < key_dim; f += 8) {
        simdgroup_matrix<T, 8, 8> q, k;
        simdgroup_load(q, query_tile + row_block * 8 * STRIDE + f, STRIDE);
        simdgroup_load(k, tile + key_block * 8 * STRIDE + f, STRIDE, ulong2(0, 0), true);
        simdgroup_multiply_accumulate(products, q, k, products);
      }
      simdgroup_store(products, scores + row_block * 8 * KEYS + key_block * 8, KEYS);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int c = simdgroup; c < KEYS; c += SIMDGROUPS) {
      const int slot = c < count ? slot_at(tables, column + c) : -1;
      load_row(values + (ulong(kv_head) * num_slots + max(slot, 0)) * value_dim, tile + c * STRIDE, value_dim, slot >= 0, lane);
    }
    const int index = int(lane) < count ? index_at(tables, column + int(lane)) : 0;  // of the lane's key
    float key_scale = 1.0f, value_scale = 1.0f;
    if (QUANTIZED && int(lane) < count) {
      const ulong vector = ulong(kv_head) * num_slots + slot_at(tables, column + int(lane));
      key_scale = key_scales[vector];
      value_scale = value_scales[vector];
    }
    UNROLL
    for (int i = 0; i < OWN_ROWS; i++) {
      const int r = simdgroup + SIMDGROUPS * i;
      if (r >= (num_rows + 7) / 8 * 8) {
        break;
      }
      const bool seen = int(lane) < count && sees(row_reach[i], index, window);
      const float mine = seen ? capped(scores[r * KEYS + int(lane)] * key_scale * scale, softcap) : LOWEST;
      const float new_best = max(best[i], simd_max(mine));
      const float kept = precise::exp(best[i] - new_best);
      const float weight = seen ? precise::exp(mine - new_best) : 0.0f;
      total[i] = total[i] * kept + simd_sum(weight);
      best[i] = new_best;
      if (int(lane) < KEYS) {
        scores[r * KEYS + int(lane)] = seen ? weight * value_scale : 0.0f;
      }
      if (lane < 8) {
        factors[r * 8 + int(lane)] = kept;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    UNROLL
    for (int b = 0; b < ROW_BLOCKS; b++) {
      if (b * 8 < num_rows) {
        simdgroup_matrix<float, 8, 8> factor;
        simdgroup_load(factor, factors + b * 64, 8);
        UNROLL
        for (int j = 0; j < COLUMN_BLOCKS; j++) {
          multiply_elements(sums[b][j], factor);
        }
      }
    }
    for (int k = 0; k < KEY_BLOCKS; k++) {
      simdgroup_matrix<float, 8, 8> weights[ROW_BLOCKS];
      UNROLL
      for (int b = 0; b < ROW_BLOCKS; b++) {
        if (b * 8 < num_rows) {
          simdgroup_load(weights[b], scores + b * 8 * KEYS + k * 8, KEYS);
        }
      }
      UNROLL
      for (int j = 0; j < COLUMN_BLOCKS; j++) {
        const int feature = 8 * (simdgroup + SIMDGROUPS * j);
        if (feature < value_dim) {
          simdgroup_matrix<T, 8, 8> v;
          simdgroup_load(v, tile + k * 8 * STRIDE + feature, STRIDE);
          UNROLL
          for (int b = 0; b < ROW_BLOCKS; b++) {
            if (b * 8 < num_rows) {
              simdgroup_multiply_accumulate(sums[b][j], weights[b], v, sums[b][j]);
            }
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

const ulong row_start = (ulong(item_index) * kv_heads + kv_head) * stored_rows + first_row;
UNROLL
for (int i = 0; i < OWN_ROWS; i++) {
  const int r = simdgroup + SIMDGROUPS * i;
  if (lane < 8) {
    factors[r * 8 + int(lane)] = total[i] == 0.0f ? 0.0f : 1.0f / total[i];
  }
  if (lane == 0 && r < num_rows) {
    partial_lse[row_start + r] = total[i] == 0.0f ? -INFINITY : best[i] + precise::log(total[i]);
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
UNROLL
for (int b = 0; b < ROW_BLOCKS; b++) {
  if (b * 8 < num_rows) {
    simdgroup_matrix<float, 8, 8> factor;
    simdgroup_load(factor, factors + b * 64, 8);
    UNROLL
    for (int j = 0; j < COLUMN_BLOCKS; j++) {
      const int feature = 8 * (simdgroup + SIMDGROUPS * j);
      if (feature < value_dim) {
        multiply_elements(sums[b][j], factor);
        simdgroup_store(sums[b][j], partial + (row_start + 8 * b) * value_dim + feature, value_dim);
      }
    }
  }
}
