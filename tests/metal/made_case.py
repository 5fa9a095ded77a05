"""A case with chosen sizes: shared blocks, and workers that read them and each other."""

from __future__ import annotations

import numpy as np

from hogwild.conformance.cases import AttentionCase, DType, KVDtype, rounded
from hogwild.core.blocks import Block
from hogwild.core.plan import Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.rotary import RotarySpec


def made_case(
    *,
    shared: tuple[int, ...] = (37, 5),
    steps: int = 0,
    new_tokens: tuple[int, ...] = (1, 1),
    repeat: int = 1,
    private: bool = False,
    num_sessions: int = 1,
    page_size: int = 16,
    kv_heads: int = 2,
    group_size: int = 2,
    key_dim: int = 64,
    value_dim: int = 64,
    dtype: DType = "float32",
    num_dims: int | None = None,
    start: int = 0,
    pairing: str = "half",
    loudness: float = 1.0,
    window: int | None = None,
    softcap: float | None = None,
    sinks: float | None = None,
    kv_dtype: KVDtype = "auto",
) -> AttentionCase:
    """Each worker reads the shared blocks `repeat` times, the others' blocks unless they are private, and its own.

    steps: so many steps of 5 tokens are published into the first block, with two shifts in turns.
    """
    rng = np.random.default_rng([*shared, *new_tokens, group_size, key_dim])
    pool = PagePool(2, page_size=page_size)
    pool.allocate(1)  # slot 0 is dead
    sessions = [_session(pool, shared, steps, new_tokens, repeat, private) for _ in range(num_sessions)]
    appended = [[row.own.append(row.token_ids) for row in rows] for rows in sessions]
    plan = build_plan(sessions, pool.num_slots, appended)
    num_heads = kv_heads * group_size
    held = np.unique(np.concatenate([group.column_slots for group in plan.groups]))
    stored = []
    for dim in (key_dim, value_dim):
        array = np.full((kv_heads, plan.num_slots, dim), np.nan, dtype=np.float32)
        array[:, held] = rounded(rng.standard_normal((kv_heads, len(held), dim)), dtype)
        stored.append(array)
    queries = rng.standard_normal((plan.num_tokens, num_heads, key_dim)) * (1 if loudness == 1 else loudness / 3)
    num_dims = min(num_dims or key_dim, key_dim)
    inv_freq = 1e4 ** -(np.arange(0, num_dims, 2) / num_dims)
    return AttentionCase(
        name="made",
        groups=tuple(tuple(rows) for rows in sessions),
        plan=plan,
        queries=rounded(queries, dtype),
        keys=stored[0],
        values=stored[1],
        dtype=dtype,
        rotary=RotarySpec(tuple(inv_freq.astype(np.float32).tolist()), pairing, start),  # type: ignore[arg-type]
        scale=key_dim**-0.5,
        window=window,
        softcap=softcap,
        sinks=None if sinks is None else np.full(num_heads, sinks, dtype=np.float32),
        kv_dtype=kv_dtype,
    )


def _session(
    pool: PagePool, shared: tuple[int, ...], steps: int, new_tokens: tuple[int, ...], repeat: int, private: bool
) -> list[Row]:
    blocks = [Block(pool, f"shared {i}") for i in range(len(shared))]
    for block, length in zip(blocks, shared, strict=True):
        block.append([0] * length)
    for i in range(steps):
        step = Block(pool, "step", place=len(blocks[0]) + 7 * (i % 2))
        step.append([0] * 5)
        blocks[0].link(step)
    owns = [Block(pool, f"own {i}") for i in range(len(new_tokens))]
    for i, own in enumerate(owns):
        own.append([0] * (3 * i))
    view = [block for block in blocks for _ in range(repeat)]
    return [
        Row((*view, *(other for other in owns if other is not own and not private), own), (1,) * count)
        for own, count in zip(owns, new_tokens, strict=True)
    ]
