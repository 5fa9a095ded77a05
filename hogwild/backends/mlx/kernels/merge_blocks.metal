// The log-sum-exp of what each token's head sees of each block; for work lists whose items are cut by block.
const int head = thread_position_in_grid.x, token_index = thread_position_in_grid.y;
const int kv_heads = partial_lse_shape[1], stored_rows = partial_lse_shape[2];
const int num_heads = threads_per_grid.x, num_blocks = sizes[0], group_size = num_heads / kv_heads;
const Token token = token_at(tables, token_index);
const ulong row = ulong(head / group_size) * stored_rows + token.place * group_size + head % group_size;
const ulong step = ulong(kv_heads) * stored_rows;
const ulong at = (ulong(token_index) * num_heads + head) * num_blocks;

for (int b = 0; b < num_blocks; b++) {
  by_block[at + b] = -INFINITY;
}
for (int i = token.start; i < token.end;) {
  const int block = item_at(tables, listed_at(tables, i)).block;
  float best = LOWEST, total = 0.0f;
  for (; i < token.end && item_at(tables, listed_at(tables, i)).block == block; i++) {
    const float lse = partial_lse[row + listed_at(tables, i) * step];
    if (lse == -INFINITY) {
      continue;
    }
    const float new_best = max(best, lse);
    total = total * precise::exp(best - new_best) + precise::exp(lse - new_best);
    best = new_best;
  }
  by_block[at + block] = total == 0.0f ? -INFINITY : best + precise::log(total);
}
