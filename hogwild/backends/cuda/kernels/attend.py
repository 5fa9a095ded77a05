"""The attention kernel: one item of the work list for one kv head.

In Triton's language, which is a part of Python; the derivation is in `docs/kernels.md`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
import triton
import triton.language as tl

UNSEEN = tl.constexpr(-(1 << 30))  # as in `hogwild.core.plan`
FAR = tl.constexpr(1 << 30)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend(
    queries,  # [T, H, Dk], strided, after the model's own rotation
    keys,  # [K, slots, Dk]
    values,  # [K, slots, Dv]
    key_scales,  # [K, slots] float32, where keys and values are codes
    value_scales,  # the same
    tokens,  # the tables of `WorkList`, int32
    items,
    segments,
    turns,
    column_slots,
    column_index,
    angles,  # [.., 2, pairs] float32: cos and sin for each entry of `turns`
    partial_out,  # [I, K, ROWS, Dv] float32
    partial_lse,  # [I, K, ROWS] float32
    token_stride,
    head_stride,
    key_stride,  # from one kv head to the next
    value_stride,
    num_slots,
    scale,
    softcap,
    window,
    GROUP: tl.constexpr,  # query heads of a kv head
    ROWS: tl.constexpr,  # tokens of a full chunk, times GROUP
    BLOCK_ROWS: tl.constexpr,  # ROWS, padded
    TILE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    ROTARY_START: tl.constexpr,
    ROTARY_PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    QUANTIZED: tl.constexpr,
    ROW_UNITS: tl.constexpr,  # so that codes that others see change nothing
    UPCAST: tl.constexpr,  # in the interpreter, whose tl.dot takes bfloat16 bits for integers
):
    item, head = tl.program_id(0), tl.program_id(1)
    first_token = tl.load(items + item * 5)
    num_tokens = tl.load(items + item * 5 + 1)
    if num_tokens == 0:  # the grid is as large as the table
        return
    first_segment = tl.load(items + item * 5 + 2)
    end_segment = tl.load(items + item * 5 + 3)

    row = tl.arange(0, BLOCK_ROWS)
    live = row < num_tokens * GROUP
    token = first_token + row // GROUP
    position = tl.load(tokens + token * 5, mask=live, other=0)
    first_turn = tl.load(tokens + token * 5 + 1, mask=live, other=0)
    query = queries + token.to(tl.int64) * token_stride + (head * GROUP + row % GROUP) * head_stride
    keys += head.to(tl.int64) * key_stride
    values += head.to(tl.int64) * value_stride
    if QUANTIZED:
        key_scales += head.to(tl.int64) * num_slots
        value_scales += head.to(tl.int64) * num_slots

    nth = tl.arange(0, TILE)
    key_feature = tl.arange(0, BLOCK_KEY)
    value_feature = tl.arange(0, BLOCK_VALUE)
    out = tl.zeros([BLOCK_ROWS, BLOCK_VALUE], tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    most = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)  # of the scores so far, in units of ln 2
    unit = tl.full([], 1e-30, tl.float32)  # of `out`, where values are codes: the largest of their scales so far
    if ROW_UNITS:  # of those that the row sees; it costs registers
        unit = tl.full([BLOCK_ROWS], 1e-30, tl.float32)

    for segment in range(first_segment, end_segment):
        run = tl.load(segments + segment * 3)
        column = tl.load(segments + segment * 3 + 1)
        num_keys = tl.load(segments + segment * 3 + 2)
        first_index = tl.load(column_index + column)
        turn = tl.load(turns + first_turn + run, mask=live, other=UNSEEN)
        reach = position + turn  # the index that stands at distance 0
        # The nth key's index is at least the first one's and n more, and the last one's less those between.
        end = tl.minimum(num_keys, tl.max(reach, 0) - first_index + 1)
        start = 0
        if HAS_WINDOW:
            last_index = tl.load(column_index + column + num_keys - 1)
            nearest = tl.min(tl.where(turn == UNSEEN, FAR, reach), 0) - window + 1
            start = tl.maximum(0, nearest - (last_index - num_keys + 1))
            start = start // TILE * TILE  # who else is in the chunk must not move the tiles
        if start < end:
            q = _turned(
                query,
                angles + (first_turn + run) * (2 * ROTARY_PAIRS),
                live,
                scale * LOG2_E,
                key_feature,
                KEY_DIM,
                ROTARY_START,
                ROTARY_PAIRS,
                INTERLEAVED,
            ).to(queries.dtype.element_ty)
            if UPCAST:
                q = q.to(tl.float32)
            # Slots run one tile ahead: loaded where they are used, they would keep K and V from being buffered. So do
            # indices, but from the end of a tile on: more registers would spill.
            slots = tl.load(column_slots + column + start + nth, mask=start + nth < end, other=0)
            indices = tl.load(column_index + column + start + nth, mask=start + nth < end, other=0)
            for first in range(start, end, TILE):
                here = first + nth
                written = here < end
                slot = slots.to(tl.int64)
                slots = tl.load(column_slots + column + here + TILE, mask=here + TILE < end, other=0)
                index = indices
                k = tl.load(
                    keys + slot[:, None] * KEY_DIM + key_feature[None, :],
                    mask=written[:, None] & (key_feature < KEY_DIM)[None, :],
                    other=0.0,
                )
                # Without the mask a NaN in a slot that nobody wrote would come through with weight 0.
                v = tl.load(
                    values + slot[:, None] * VALUE_DIM + value_feature[None, :],
                    mask=written[:, None] & (value_feature < VALUE_DIM)[None, :],
                    other=0.0,
                )
                # Codes are whole numbers up to 127, which 16 bits hold exactly.
                k = k.to(q.dtype)
                v = v.to(q.dtype)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee")
                if QUANTIZED:
                    scores *= tl.load(key_scales + slot, mask=written, other=0.0)[None, :]
                if HAS_SOFTCAP:
                    scores = _tanh(scores / (softcap * LOG2_E)) * (softcap * LOG2_E)
                distance = reach[:, None] - index[None, :]
                seen = (distance >= 0) & written[None, :]
                if HAS_WINDOW:
                    seen &= distance < window
                scores = tl.where(seen, scores, float("-inf"))
                new_most = tl.maximum(most, tl.max(scores, 1))
                base = tl.where(new_most == float("-inf"), 0.0, new_most)
                weights = tl.exp2(scores - base[:, None])
                shrink = tl.exp2(most - base)
                total = total * shrink + tl.sum(weights, 1)
                if QUANTIZED:
                    # In units of the largest scale, so that float16 holds the product whatever the values' size.
                    value_scale = tl.load(value_scales + slot, mask=written, other=0.0)
                    if ROW_UNITS:
                        new_unit = tl.maximum(unit, tl.max(tl.where(seen, value_scale[None, :], 0.0), 1))
                        weights *= value_scale[None, :] / new_unit[:, None]
                    else:
                        new_unit = tl.maximum(unit, tl.max(value_scale, 0))
                        weights *= (value_scale / new_unit)[None, :]
                    shrink *= unit / new_unit
                    unit = new_unit
                out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
                most = new_most
                indices = tl.load(column_index + column + here + TILE, mask=here + TILE < end, other=0)

    place = (item * tl.num_programs(1) + head).to(tl.int64) * ROWS + row
    if QUANTIZED:
        out *= unit[:, None] if ROW_UNITS else unit
    nothing = total == 0.0
    lse = tl.where(nothing, float("-inf"), most * LN_2 + tl.log(tl.where(nothing, 1.0, total)))
    tl.store(partial_lse + place, lse, mask=live)
    tl.store(
        partial_out + place[:, None] * VALUE_DIM + value_feature[None, :],
        out / tl.where(nothing, 1.0, total)[:, None],
        mask=live[:, None] & (value_feature < VALUE_DIM)[None, :],
    )


@triton.jit
def _turned(
    query,  # [rows] where each query lies
    angles,  # [rows] where its cos and sin lie
    live,
    scale,
    feature,
    KEY_DIM: tl.constexpr,
    START: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Queries in float32, turned and scaled. All that names a feature's partner is arithmetic on constants, so that
    the compiler sees which addresses lie side by side."""
    inside = live[:, None] & (feature < KEY_DIM)[None, :]
    x = tl.load(query[:, None] + feature[None, :], mask=inside, other=0.0).to(tl.float32)
    if PAIRS > 0:
        nth = feature - START
        turning = (nth >= 0) & (nth < 2 * PAIRS)
        if INTERLEAVED:
            pair = nth // 2
            partner = START + (nth ^ 1)
            first = nth % 2 == 0
        else:
            pair = nth % PAIRS
            partner = START + (nth + PAIRS) % (2 * PAIRS)
            first = nth < PAIRS
        inside &= turning[None, :]
        y = tl.load(query[:, None] + partner[None, :], mask=inside, other=0.0).to(tl.float32)
        cos = tl.load(angles[:, None] + pair[None, :], mask=inside, other=1.0)
        sin = tl.load(angles[:, None] + (PAIRS + pair)[None, :], mask=inside, other=0.0)
        x = x * cos + y * tl.where(first[None, :], -sin, sin)
    return x * scale


@triton.jit
def _tanh(x):
    """Without cancellation for large |x|; for small |x| the error stays that of exp, 1e-7 of the cap."""
    shrunk = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    size = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(x < 0, -size, size)
