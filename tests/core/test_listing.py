"""Listings of blocks that grow by steps and are cut, against sorting all keys anew; and faults that this must see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hogwild.core import listing
from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.pool import PagePool

Patch = pytest.MonkeyPatch


def is_listed_wrongly(seed: int, span: int) -> bool:
    """Whether some listing of a random history is not what it should be."""
    rng, pool = np.random.default_rng(seed), PagePool(page_size=4)
    common, positions = Block(pool), np.empty(0, dtype=np.int64)
    for _ in range(40):
        if rng.random() < 0.2:
            length = int(rng.integers(len(common) + 1))
            common.truncate(length)
            positions = positions[:length]
        step = Block(pool, place=max(0, len(common) - int(rng.integers(4))))
        step.append(rng.integers(9, size=int(rng.integers(1, 7))))
        positions = np.append(positions, step.origin + np.arange(len(step)))
        common.link(step)
        if rng.random() < 0.7 and not _is_right(common, positions, span):
            return True
    return False


def _is_right(block: Block, positions: IntArray, span: int) -> bool:
    index = np.arange(len(block))
    order = np.lexsort((index, positions - index, index // span))
    begins = np.flatnonzero(np.diff((positions - index)[order], prepend=1 << 20))
    expected = block.slots[order], order, begins, (positions - index)[order][begins]
    return all(a.tolist() == b.tolist() for a, b in zip(block.listed()[:-1], expected, strict=True))


@pytest.mark.parametrize("span", [1, 5, 16, 1024])
@pytest.mark.parametrize("seed", range(20))
def test_keys_are_sorted_within_spans(seed: int, span: int, monkeypatch: Patch) -> None:
    monkeypatch.setattr(listing, "SPAN", span)
    assert not is_listed_wrongly(seed, span)


def _span(patch: Patch, method: str, span: int) -> None:
    """Spans are of another length for one method."""
    true = getattr(listing.Listing, method)

    def changed(*args: object) -> None:
        with patch.context() as inner:
            inner.setattr(listing, "SPAN", span)
            true(*args)

    patch.setattr(listing.Listing, method, changed)


def _cut_is_ignored(patch: Patch) -> None:
    forget = Block._forget

    def kept(self: Block, length: int) -> None:
        known, self._listing = self._listing, None
        forget(self, length)
        self._listing = known

    patch.setattr(Block, "_forget", kept)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "what was listed of a span that has grown stays": lambda patch: _span(patch, "forget", 1),
    "spans have no end": lambda patch: _span(patch, "_add_span", 1 << 20),
    "a cut is ignored": _cut_is_ignored,
    "what was listed is kept though the block has changed": lambda patch: patch.setattr(
        Block, "_changed", lambda self, runs: None
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(listing, "SPAN", 16)
    FAULTS[fault](monkeypatch)
    assert any(is_listed_wrongly(seed, 16) for seed in range(20))
