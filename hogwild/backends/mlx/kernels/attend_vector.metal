// Few query rows. Each simdgroup goes its own way through the item's tiles of 32 keys: a key is read once, spread over
// the lanes, for all rows. The lane that bears a key's number keeps its scores, so a tile takes one exponential a row.
// Codes are read as they are: a key's scale goes to its score, a value's to its weight.
// Template: ROWS, CAPACITY (features, a multiple of 32), SIMDGROUPS, QUANTIZED (K and V are codes).
const uint lane = thread_index_in_simdgroup;
const int simdgroup = simdgroup_index_in_threadgroup;
constexpr int FEATURES = CAPACITY / LANES;

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

int row_turns[ROWS], row_position[ROWS], row_reach[ROWS];
float query[ROWS][FEATURES], sum[ROWS][FEATURES], best[ROWS], total[ROWS];
UNROLL
for (int r = 0; r < ROWS; r++) {
  const int row = first_row + min(r, num_rows - 1);
  const Token token = token_at(tables, item.first_token + row / group_size);
  row_turns[r] = token.first_turn;
  row_position[r] = token.position;
  best[r] = LOWEST;
  total[r] = 0.0f;
  UNROLL
  for (int e = 0; e < FEATURES; e++) {
    sum[r][e] = 0.0f;
  }
}

int num_tiles_before = 0;
for (int s = item.first_segment; s < item.end_segment; s++) {
  const Segment segment = segment_at(tables, s);
  const int num_tiles = (segment.count + LANES - 1) / LANES;
  const int first_tile = (simdgroup + SIMDGROUPS - num_tiles_before % SIMDGROUPS) % SIMDGROUPS;
  num_tiles_before += num_tiles;
  if (first_tile >= num_tiles) {
    continue;
  }
  const Reach reach = reach_of(tables, item, segment.run, lane);
  bool is_turned = false;
  for (int tile = first_tile; tile < num_tiles; tile += SIMDGROUPS) {
    const int column = segment.column + tile * LANES, count = min(LANES, segment.count - tile * LANES);
    if (hidden(reach, index_at(tables, column), index_at(tables, column + count - 1), window)) {
      continue;
    }
    if (!is_turned) {
      is_turned = true;
      UNROLL
      for (int r = 0; r < ROWS; r++) {
        const int row = first_row + min(r, num_rows - 1), token = item.first_token + row / group_size;
        const int head = kv_head * group_size + row % group_size;
        const Angles angles = angles_of(offset_at(tables, row_turns[r] + segment.run), rotary, high, low);
        row_reach[r] = row_position[r] + turn_at(tables, row_turns[r] + segment.run);
        UNROLL
        for (int e = 0; e < FEATURES; e++) {
          const int feature = int(lane) + LANES * e;
          query[r][e] = 0.0f;
          if (feature < key_dim) {
            query[r][e] = turned(queries + (ulong(token) * num_heads + head) * key_dim, feature, rotary, angles);
          }
        }
      }
    }

    const int slot = int(lane) < count ? slot_at(tables, column + int(lane)) : 0;
    const int index = int(lane) < count ? index_at(tables, column + int(lane)) : 0;
    const ulong vector = ulong(kv_head) * num_slots + slot;
    const float key_scale = QUANTIZED && int(lane) < count ? float(key_scales[vector]) : 1.0f;
    const float value_scale = QUANTIZED && int(lane) < count ? float(value_scales[vector]) : 1.0f;
    float score[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
      score[r] = 0.0f;
    }
    for (int c = 0; c < count; c++) {
      const ulong at = (ulong(kv_head) * num_slots + simd_broadcast(slot, ushort(c))) * key_dim;
      float key[FEATURES];
      UNROLL
      for (int e = 0; e < FEATURES; e++) {
        const int feature = int(lane) + LANES * e;
        key[e] = feature < key_dim ? float(keys[at + feature]) : 0.0f;
      }
      UNROLL
      for (int r = 0; r < ROWS; r++) {
        float product = 0.0f;
        UNROLL
        for (int e = 0; e < FEATURES; e++) {
          product += query[r][e] * key[e];
        }
        product = simd_sum(product);
        score[r] = int(lane) == c ? product : score[r];
      }
    }

    UNROLL
    for (int r = 0; r < ROWS; r++) {
      const bool seen = int(lane) < count && sees(row_reach[r], index, window);
      const float mine = seen ? capped(score[r] * key_scale * scale, softcap) : LOWEST;
      const float new_best = max(best[r], simd_max(mine));
      const float kept = precise::exp(best[r] - new_best);
      score[r] = seen ? precise::exp(mine - new_best) : 0.0f;
      total[r] = total[r] * kept + simd_sum(score[r]);
      best[r] = new_best;
      score[r] = seen ? score[r] * value_scale : 0.0f;
      UNROLL
      for (int e = 0; e < FEATURES; e++) {
        sum[r][e] *= kept;
      }
    }

    for (int c = 0; c < count; c++) {
      const ulong at = (ulong(kv_head) * num_slots + simd_broadcast(slot, ushort(c))) * value_dim;
      float value[FEATURES];
      UNROLL
      for (int e = 0; e < FEATURES; e++) {
        const int feature = int(lane) + LANES * e;
        value[e] = feature < value_dim ? float(values[at + feature]) : 0.0f;
      }
      UNROLL
      for (int r = 0; r < ROWS; r++) {
        const float weight = simd_broadcast(score[r], ushort(c));
        UNROLL
        for (int e = 0; e < FEATURES; e++) {
          sum[r][e] += weight * value[e];
        }
      }
    }
  }
}

// What the simdgroups found is added up, one row after the other.
threadgroup float all_best[SIMDGROUPS * ROWS];
threadgroup float all_total[SIMDGROUPS * ROWS];
threadgroup float all_sum[SIMDGROUPS * CAPACITY];
if (lane == 0) {
  UNROLL
  for (int r = 0; r < ROWS; r++) {
    all_best[simdgroup * ROWS + r] = best[r];
    all_total[simdgroup * ROWS + r] = total[r];
  }
}
UNROLL
for (int r = 0; r < ROWS; r++) {
  if (r >= num_rows) {
    break;
  }
  UNROLL
  for (int e = 0; e < FEATURES; e++) {
    all_sum[simdgroup * CAPACITY + int(lane) + LANES * e] = sum[r][e];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float top = LOWEST, whole = 0.0f, share[SIMDGROUPS];
  UNROLL
  for (int g = 0; g < SIMDGROUPS; g++) {
    top = max(top, all_best[g * ROWS + r]);
  }
  UNROLL
  for (int g = 0; g < SIMDGROUPS; g++) {
    share[g] = precise::exp(all_best[g * ROWS + r] - top);
    whole += all_total[g * ROWS + r] * share[g];
  }
  const ulong row = (ulong(item_index) * kv_heads + kv_head) * stored_rows + first_row + r;
  for (int feature = simdgroup * LANES + int(lane); feature < value_dim; feature += SIMDGROUPS * LANES) {
    float mixed = 0.0f;
    UNROLL
    for (int g = 0; g < SIMDGROUPS; g++) {
      mixed += all_sum[g * CAPACITY + feature] * share[g];
    }
    partial[row * value_dim + feature] = whole == 0.0f ? 0.0f : mixed / whole;
  }
  if (simdgroup == 0 && lane == 0) {
    partial_lse[row] = whole == 0.0f ? -INFINITY : top + precise::log(whole);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
