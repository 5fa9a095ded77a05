"""A work list carried out in float64, as a kernel would, and what must hold for every work list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from core_invariants import Violation

from hogwild.conformance.cases import AttentionCase, attention_case
from hogwild.conformance.oracle import exact_attention
from hogwild.core import work
from hogwild.core.frame import UNSEEN
from hogwild.core.plan import GroupPlan
from hogwild.core.rotary import exact_angles, turn
from hogwild.core.work import WorkList

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cut:
    """A case, how it was cut, and the work list."""

    case: AttentionCase
    tile: int
    query_tile: int
    num_items: int
    by_block: bool
    span: int
    list: WorkList

    @property
    def chunks(self) -> list[int]:
        """Chunks of each group."""
        return [-(-group.num_tokens // self.query_tile) for group in self.case.plan.groups]


def random_cut(seed: int) -> Cut:
    rng = np.random.default_rng([1, seed])
    case = attention_case(seed)
    tile, query_tile = int(rng.choice([1, 4, 16, 32, 100])), int(rng.choice([1, 2, 4, 16, 64]))
    num_items, by_block = int(rng.choice([1, 2, 7, 30, 132])), bool(rng.integers(2))
    span = -(-100 // tile) if query_tile > 1 and rng.random() < 0.4 else 0
    made = work.cut_work(case.plan, tile=tile, query_tile=query_tile, num_items=num_items, by_block=by_block, span=span)
    return Cut(case, tile, query_tile, num_items, by_block or span > 0, span, made)


Check = Callable[[Cut], None]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Register a check; whatever it trips over counts as its violation."""

    def register(function: Check) -> Check:
        def named(cut: Cut) -> None:
            try:
                function(cut)
            except (AssertionError, LookupError, ValueError) as error:
                raise Violation(f"{name}: {error!r}") from error

        CHECKS[name] = named
        return named

    return register


ATTENTION = "the work adds up to the exact attention"


@check(ATTENTION)
def attention_is_exact(cut: Cut) -> None:
    exact = exact_attention(cut.case)
    output, log_sum_exp = carry_out(cut.case, cut.list)
    # The rotations agree to 1e-16 radians times the offset; scores of a million carry that on.
    scale = np.maximum(1.0, exact.score_error)
    assert (np.abs(log_sum_exp - exact.log_sum_exp) / scale).max() < 1e-8
    assert (np.abs(output - exact.output) / scale[..., None]).max() < 1e-8


@check("every visible key is read once, at its distance")
def every_key_is_read_once(cut: Cut) -> None:
    for group, first_column in _groups(cut):
        for t in range(group.num_tokens):
            read = np.concatenate([[*_read_by(cut.list, group.token_start + t)]]).reshape(-1, 2)
            expected = _visible(group, t)
            expected[:, 0] += first_column
            order = np.argsort(read[:, 0], kind="stable")
            assert np.array_equal(read[order], expected), f"token {t}: {read[order]}, expected {expected}"


@check("the tables of tokens and of items agree")
def tokens_and_items_agree(cut: Cut) -> None:
    """The items of a chunk stand side by side, name the chunk's tokens, and cover the same segments in order."""
    made, expected_item = cut.list, 0
    for group in cut.case.plan.groups:
        for start in range(0, group.num_tokens, cut.query_tile):
            first = group.token_start + start
            count = min(cut.query_tile, group.num_tokens - start)
            tokens = made.tokens[first : first + count]
            assert tokens[:, 2].tolist() == list(range(count)), "places in the chunk"
            items = made.items[made.items[:, 0] == first]
            end = expected_item + len(items)
            assert len(items), "a chunk without items"
            assert (made.items[expected_item:end, :2] == (first, count)).all(), "tokens of an item"
            for begin, stop in tokens[:, 3:]:
                listed = made.order[begin:stop].tolist()
                assert stop > begin, "a token without items"
                assert set(listed) <= set(range(expected_item, end)), "items of another chunk"
                assert cut.span or listed == list(range(expected_item, end)), "an item left out"
            assert (items[:, 2] < items[:, 3]).all(), "an item without segments"
            assert np.array_equal(items[1:, 2], items[:-1, 3]), "segments of a chunk"
            expected_item = end
    assert expected_item == made.num_items
    assert made.tokens[:, 0].tolist() == [int(i) for group in cut.case.plan.groups for i in group.token_index]


@check("no more items than asked for, and one for each chunk")
def items_are_bounded(cut: Cut) -> None:
    if not cut.by_block:
        assert cut.list.num_items <= cut.num_items + sum(cut.chunks)


@check("items are of nearly equal size")
def items_are_balanced(cut: Cut) -> None:
    """No item holds more tiles than the share of one split, rounded up."""
    if cut.by_block:
        return
    for group, chunks, items in zip(cut.case.plan.groups, cut.chunks, _items_of_groups(cut), strict=True):
        total = int((-(-np.diff(group.run_start) // cut.tile)).sum())
        splits = len(items) // chunks
        assert splits * chunks == len(items)
        keys = cut.list.segments[:, 2]
        tiles = [int((-(-keys[first:end] // cut.tile)).sum()) for first, end in items[:, 2:4]]
        assert max(tiles) <= -(-total // splits), f"{max(tiles)} of {total} tiles in one of {splits} splits"


@check("segments begin at a tile of their run and end in it")
def segments_are_whole_tiles(cut: Cut) -> None:
    runs = [run for group in cut.case.plan.groups for run in range(group.num_runs)]
    first_run = np.cumsum([0, *(group.num_runs for group in cut.case.plan.groups)])
    for run, column, num_keys in cut.list.segments.tolist():
        assert num_keys > 0
        place, begin, end = _run_of_column(cut, first_run, column)
        assert begin <= column < column + num_keys <= end
        assert (column - begin) % cut.tile == 0
        assert num_keys % cut.tile == 0 or column + num_keys == end, "a tile is cut in two"
        assert run == runs[place]


@check("items of a span follow the own view alone")
def spans_follow_the_view(cut: Cut) -> None:
    """Each block that a token sees, in the order of its view, every `span` tiles from its start."""
    for group in cut.case.plan.groups if cut.span else ():
        for t in range(group.num_tokens):
            turns = group.turns[group.token_row[t]]
            seen = [b for b in np.argsort(-turns, kind="stable") if turns[b] != UNSEEN]
            tiles = [(b, key) for b in seen for key in _tile_starts(group, b, cut.tile)[:: cut.span]]
            begin, end = cut.list.tokens[group.token_start + t, 3:]
            items = cut.list.items[cut.list.order[begin:end]]
            firsts = cut.list.column_index[cut.list.segments[items[:, 2], 1]]
            assert list(zip(items[:, 4].tolist(), firsts.tolist(), strict=True)) == tiles, f"token {t}"


def _tile_starts(group: GroupPlan, block: int, tile: int) -> list[int]:
    """Where in a block each of its tiles begins."""
    runs = np.flatnonzero(group.run_block == block)
    edges = group.run_start.tolist()
    return [int(group.column_index[c]) for n in runs for c in range(edges[n], edges[n + 1], tile)]


@check("an item by block reads one block")
def items_by_block(cut: Cut) -> None:
    for group, items in zip(cut.case.plan.groups, _items_of_groups(cut), strict=True):
        for _, _, first, end, block in items.tolist():
            blocks = set(group.run_block[cut.list.segments[first:end, 0]].tolist())
            assert block == (blocks.pop() if cut.by_block else -1)
            assert not cut.by_block or not blocks, "an item spans two blocks"


@check("all tables are int32")
def tables_are_int32(cut: Cut) -> None:
    made = cut.list
    columns = made.column_slots, made.column_index
    for table in (made.tokens, made.items, made.order, made.segments, made.turns, made.offsets, *columns):
        assert table.dtype == np.int32
        assert table.flags.c_contiguous
    assert [made.tokens.shape[1], made.items.shape[1], made.segments.shape[1]] == [5, 5, 3]
    for name in ("column_slots", "column_index"):
        expected = np.concatenate([getattr(group, name) for group in cut.case.plan.groups])
        assert getattr(made, name).tolist() == expected.tolist(), name


def _groups(cut: Cut) -> Iterator[tuple[GroupPlan, int]]:
    """Each group with its first column among those of all groups."""
    column = 0
    for group in cut.case.plan.groups:
        yield group, column
        column += group.num_columns


def _items_of_groups(cut: Cut) -> list[Array]:
    """The items of each group, as its tokens name them."""
    starts = [group.token_start for group in cut.case.plan.groups]
    of_item = np.searchsorted(starts, cut.list.items[:, 0], side="right") - 1
    return [cut.list.items[of_item == g] for g in range(len(starts))]


def _run_of_column(cut: Cut, first_run: Array, column: int) -> tuple[int, int, int]:
    """Number of the run (over all groups) that holds a column, its first column and its end."""
    for i, (group, first) in enumerate(_groups(cut)):
        if column < first + group.num_columns:
            n = int(np.searchsorted(group.run_start, column - first, side="right")) - 1
            return int(first_run[i]) + n, first + int(group.run_start[n]), first + int(group.run_start[n + 1])
    raise AssertionError(f"column {column} does not exist")


def _read_by(made: WorkList, token: int) -> Iterator[Array]:
    """`[n, 2]` columns that a token reads in all of its items, and how far its query is turned for each."""
    token_index, first_turn, _, first_item, end = (int(x) for x in made.tokens[token])
    for first_segment, end_segment in made.items[made.order[first_item:end], 2:4].tolist():
        for run, column, num_keys in made.segments[first_segment:end_segment].tolist():
            turned, offset = int(made.turns[first_turn + run]), int(made.offsets[first_turn + run])
            index = made.column_index[column : column + num_keys]
            seen = np.flatnonzero(token_index + turned - index >= 0)
            assert offset == 0 or turned != UNSEEN, "an offset where nothing is seen"
            yield from np.stack([column + seen, np.full(len(seen), offset)], axis=1)


def _visible(group: GroupPlan, t: int) -> Array:
    """`[n, 2]` the same by the plan, ascending."""
    seen = np.flatnonzero(group.sees(slice(t, t + 1), group.column_run, group.column_index)[0])
    return np.stack([seen, group.offsets[group.token_row[t]][group.column_run[seen]]], axis=1)


def carry_out(case: AttentionCase, made: WorkList) -> tuple[Array, Array]:
    """Output `[T, H, Dv]` and log-sum-exp `[T, H]`: items give partial results, which are then merged."""
    parts = [_partial(case, made, item) for item in made.items.tolist()]
    outputs, sums = [], []
    for _, _, place, first, end in made.tokens.tolist():
        mine = [parts[item] for item in made.order[first:end]]
        output = np.stack([part[0][place] for part in mine])  # [items, H, Dv]
        log_sum_exp = np.stack([part[1][place] for part in mine])  # [items, H]
        total = np.logaddexp.reduce(log_sum_exp, axis=0)
        with_sinks = total if case.sinks is None else np.logaddexp(total, case.sinks)
        outputs.append((np.exp(log_sum_exp - with_sinks)[..., None] * output).sum(axis=0))
        sums.append(total)
    return np.stack(outputs), np.stack(sums)


def _partial(case: AttentionCase, made: WorkList, item: list[int]) -> tuple[Array, Array]:
    """An item's output `[n, H, Dv]` and log-sum-exp `[n, H]`; 0 and -inf for a token that sees nothing of it."""
    start, count, first, end, _ = item
    segments = made.segments[first:end].tolist()
    scores = np.concatenate([_scores(case, made, slice(start, start + count), part) for part in segments], axis=-1)
    columns = np.concatenate([np.arange(column, column + keys) for _, column, keys in segments])
    values = case.values[:, made.column_slots[columns]].astype(np.float64)
    most = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(most), 0, most))
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_sum_exp = np.where(total > 0, most + np.log(total), -np.inf)[..., 0]
    output = weights / np.where(total == 0, 1, total) @ values
    return _by_token(output, count), _by_token(log_sum_exp[..., None], count)[..., 0]


def _scores(case: AttentionCase, made: WorkList, tokens: slice, segment: list[int]) -> Array:
    """`[K, n * G, keys]` masked scores of a chunk's queries against one segment."""
    run, column, num_keys = segment
    keys = case.keys[:, made.column_slots[column : column + num_keys]].astype(np.float64)
    kv_heads, _, key_dim = keys.shape
    rows = made.tokens[tokens].astype(np.int64)
    turns = made.turns[rows[:, 1] + run].astype(np.int64)
    distance = (rows[:, 0] + turns)[:, None] - made.column_index[column : column + num_keys]
    seen = (distance >= 0) & (distance < (1 << 40 if case.window is None else case.window))
    cos, sin = exact_angles(made.offsets[rows[:, 1] + run].astype(np.int64), case.rotary)
    turned = turn(case.queries[tokens].astype(np.float64), cos[:, None], sin[:, None], case.rotary)
    turned = turned.reshape(len(rows), kv_heads, -1, key_dim).swapaxes(0, 1).reshape(kv_heads, -1, key_dim)
    scores = turned @ keys.swapaxes(1, 2) * case.scale
    if case.softcap is not None:
        scores = case.softcap * np.tanh(scores / case.softcap)
    return np.where(np.repeat(seen, turned.shape[1] // len(rows), axis=0), scores, -np.inf)


def _by_token(x: Array, count: int) -> Array:
    """`[K, n * G, D]` as `[n, H, D]`."""
    return x.reshape(x.shape[0], count, -1, x.shape[-1]).swapaxes(0, 1).reshape(count, -1, x.shape[-1])
