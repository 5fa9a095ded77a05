"""Adding up the partial results of a token's items, by their log-sum-exp."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
import triton
import triton.language as tl


@triton.jit
def merge(
    tokens,  # [T, 5] int32, see `WorkList`
    order,  # [..] int32, the same
    partial_out,  # [I, K, ROWS, Dv] float32
    partial_lse,  # [I, K, ROWS] float32
    sinks,  # [H]
    out,  # [T, H, Dv]
    num_heads,  # H
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """The output of one token and some of its query heads: zero if it saw nothing."""
    token = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    place = tl.load(tokens + token * 5 + 2)
    start = tl.load(tokens + token * 5 + 3)
    end = tl.load(tokens + token * 5 + 4)
    nth = tl.arange(0, BLOCK_ITEMS)
    feature = tl.arange(0, BLOCK_VALUE)
    live = head < num_heads

    mixed = tl.zeros([BLOCK_HEADS, BLOCK_VALUE], tl.float32)
    if HAS_SINKS:
        most = tl.load(sinks + head, mask=live, other=0.0).to(tl.float32)
        total = tl.full([BLOCK_HEADS], 1.0, tl.float32)
    else:
        most = tl.full([BLOCK_HEADS], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_HEADS], tl.float32)
    for first in range(start, end, BLOCK_ITEMS):
        here = first + nth[None, :]
        item = tl.load(order + here, mask=here < end, other=0)
        source = (item * KV_HEADS + head[:, None] // GROUP).to(tl.int64) * ROWS
        source += place * GROUP + head[:, None] % GROUP
        lse = tl.load(partial_lse + source, mask=live[:, None] & (here < end), other=float("-inf"))
        part = tl.load(
            partial_out + source[:, :, None] * VALUE_DIM + feature[None, None, :],
            mask=(lse != float("-inf"))[:, :, None] & (feature < VALUE_DIM)[None, None, :],
            other=0.0,
        )
        new_most = tl.maximum(most, tl.max(lse, 1))
        base = tl.where(new_most == float("-inf"), 0.0, new_most)
        weights = tl.exp(lse - base[:, None])
        shrink = tl.exp(most - base)
        mixed = mixed * shrink[:, None] + tl.sum(part * weights[:, :, None], 1)
        total = total * shrink + tl.sum(weights, 1)
        most = new_most
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    target = (token * num_heads + head).to(tl.int64)[:, None] * VALUE_DIM + feature[None, :]
    tl.store(out + target, mixed.to(out.dtype.element_ty), mask=live[:, None] & (feature < VALUE_DIM)[None, :])


@triton.jit
def merge_by_block(
    tokens,  # [T, 5] int32, see `WorkList`
    items,  # [I, 5] int32; no item spans two blocks
    order,  # [..] int32
    partial_lse,  # [I, K, ROWS] float32
    block_lse,  # [T, H, B] float32
    num_blocks,  # B
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_BLOCKS: tl.constexpr,
):
    """The log-sum-exp of one token and query head over each of some blocks; -inf for a block that it does not see."""
    token, head = tl.program_id(0), tl.program_id(1)
    block = tl.program_id(2) * BLOCK_BLOCKS + tl.arange(0, BLOCK_BLOCKS)
    place = tl.load(tokens + token * 5 + 2)
    start = tl.load(tokens + token * 5 + 3)
    end = tl.load(tokens + token * 5 + 4)
    row = place * GROUP + head % GROUP

    most = tl.full([BLOCK_BLOCKS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_BLOCKS], tl.float32)
    for first in range(start, end, BLOCK_ITEMS):
        here = first + tl.arange(0, BLOCK_ITEMS)
        item = tl.load(order + here, mask=here < end, other=0)
        source = (item * KV_HEADS + head // GROUP).to(tl.int64) * ROWS + row
        lse = tl.load(partial_lse + source, mask=here < end, other=float("-inf"))
        item_block = tl.load(items + item * 5 + 4, mask=here < end, other=-1)
        spread = tl.where(item_block[:, None] == block[None, :], lse[:, None], float("-inf"))
        new_most = tl.maximum(most, tl.max(spread, 0))
        base = tl.where(new_most == float("-inf"), 0.0, new_most)
        total = total * tl.exp(most - base) + tl.sum(tl.exp(spread - base[None, :]), 0)
        most = new_most
    nothing = total == 0.0
    result = tl.where(nothing, float("-inf"), most + tl.log(tl.where(nothing, 1.0, total)))
    target = (token * tl.num_programs(1) + head).to(tl.int64) * num_blocks + block
    tl.store(block_lse + target, result, mask=block < num_blocks)
