"""The same attention, scheduled otherwise: the parts of statement L0.

Each part gives passes over the same stored bits; together they answer all tokens of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from hogwild.conformance.cases import Array, AttentionCase
from hogwild.core.arrays import IntArray
from hogwild.core.plan import Row, build_plan

Passes = Iterator[tuple[IntArray, AttentionCase]]  # which tokens of the whole case each pass answers


def repeat(case: AttentionCase) -> Passes:
    """The same pass again."""
    yield np.arange(case.plan.num_tokens), case


def pages(case: AttentionCase) -> Passes:
    """Pages at other places of a larger pool."""
    size = case.groups[0][0].own.pool.page_size
    old = case.keys.shape[1] // size
    place = np.random.default_rng(old).permutation(2 * old)[:old]
    moved = (place[:, None] * size + np.arange(size)).ravel()
    arrays = []
    for given in (case.keys, case.values):
        array = np.full((given.shape[0], 2 * given.shape[1], given.shape[2]), np.nan, np.float32)
        array[:, moved] = given
        arrays.append(array)
    groups = tuple(
        replace(group, column_slots=moved[group.column_slots].astype(np.int32)) for group in case.plan.groups
    )
    plan = replace(case.plan, groups=groups, write_slots=moved[case.plan.write_slots], num_slots=2 * case.keys.shape[1])
    yield np.arange(case.plan.num_tokens), replace(case, plan=plan, keys=arrays[0], values=arrays[1])


def worker_order(case: AttentionCase) -> Passes:
    """The workers of each session in reverse order."""
    yield _planned(case, [list(reversed(numbered)) for numbered in _numbered(case)])


def batch_mates(case: AttentionCase) -> Passes:
    """Each worker in a pass of its own."""
    for rows in _numbered(case):
        for row in rows:
            yield _planned(case, [[row]])


def chunks(case: AttentionCase) -> Passes:
    """Few tokens at a time: of each row the first one, then two more, then four, and so on."""
    nth = np.concatenate([_place(group.token_row) for group in case.plan.groups])
    chunk = np.log2(nth + 1).astype(np.int64)
    for wanted in np.arange(chunk.max() + 1)[:, None] == chunk:
        yield np.flatnonzero(wanted), _only(case, wanted)


PARTS: dict[str, Callable[[AttentionCase], Passes]] = {
    "repeat": repeat,
    "pages": pages,
    "worker order": worker_order,
    "batch mates": batch_mates,
    "chunks": chunks,
}


def rejoined(case: AttentionCase, passes: Passes, answer: Callable[[AttentionCase], Array]) -> Array:
    """The answers of all passes as one, `[T, H, Dv]`."""
    output = np.full((*case.queries.shape[:2], case.values.shape[2]), np.nan, np.float32)
    for tokens, part in passes:
        output[tokens] = answer(part)
    return output


def _place(token_row: IntArray) -> IntArray:
    """`[T]` how many tokens of its row come before each token."""
    numbers = np.arange(len(token_row))
    first = np.diff(token_row, prepend=-1) != 0
    return numbers - np.maximum.accumulate(np.where(first, numbers, 0))


def _numbered(case: AttentionCase) -> list[list[tuple[Row, IntArray]]]:
    """The rows of each session that bring tokens, with their tokens' numbers."""
    found, token = [], 0
    for group in case.groups:
        rows = []
        for row in group:
            if row.token_ids:
                rows.append((row, np.arange(token, token + len(row.token_ids))))
                token += len(row.token_ids)
        if rows:
            found.append(rows)
    return found


def _planned(case: AttentionCase, groups: list[list[tuple[Row, IntArray]]]) -> tuple[IntArray, AttentionCase]:
    """A pass of some rows, whose tokens are in their blocks already."""
    tokens = np.concatenate([numbers for rows in groups for _, numbers in rows])
    rows = [[row for row, _ in group] for group in groups]
    slots = [[case.plan.write_slots[numbers] for _, numbers in group] for group in groups]
    plan = build_plan(rows, case.plan.num_slots, slots)
    return tokens, replace(case, plan=plan, queries=case.queries[tokens])


def _only(case: AttentionCase, wanted: Array) -> AttentionCase:
    """A pass of some tokens; all others' K/V are stored before."""
    groups, start = [], 0
    for group in case.plan.groups:
        mine = wanted[group.token_start : group.token_start + group.num_tokens]
        if mine.any():
            groups.append(
                replace(group, token_start=start, token_row=group.token_row[mine], token_index=group.token_index[mine])
            )
            start += int(mine.sum())
    plan = replace(
        case.plan,
        groups=tuple(groups),
        token_ids=case.plan.token_ids[wanted],
        positions=case.plan.positions[wanted],
        write_slots=case.plan.write_slots[wanted],
        logit_tokens=np.empty(0, np.int64),
    )
    return replace(case, plan=plan, queries=case.queries[wanted])
