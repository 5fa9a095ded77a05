"""Faults to seed into the MLX and the reference backends, one at a time; the kit must see each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Patch = pytest.MonkeyPatch
REFERENCE_FAULTS: dict[str, Callable[[Patch], None]] = {}
MLX_FAULTS: dict[str, Callable[[Patch], None]] = {}


def reference_fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    REFERENCE_FAULTS[plant.__name__] = plant
    return plant


def mlx_fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MLX_FAULTS[plant.__name__] = plant
    return plant


@reference_fault
def query_turned_the_other_way(patch: Patch) -> None:
    from hogwild.backends.reference import attention

    turned = attention.turned
    patch.setattr(attention, "turned", lambda x, turn: turned(x, np.conj(turn)))


@reference_fault
def window_one_longer(patch: Patch) -> None:
    from hogwild.backends.reference.attention import _Chunk

    hidden = _Chunk._hidden_columns
    patch.setattr(_Chunk, "_hidden_columns", lambda self, window: hidden(self, window and window + 1))


@reference_fault
def values_off_by_a_thousandth(patch: Patch) -> None:
    from hogwild.backends.reference.attention import _Chunk

    mix = _Chunk._mix
    patch.setattr(_Chunk, "_mix", lambda self, weights, parts: mix(self, weights, [1.001 * part for part in parts]))


@mlx_fault
def sines_with_the_wrong_sign(patch: Patch) -> None:
    from hogwild.backends.mlx import attention

    rotate = attention.rotate
    patch.setattr(attention, "rotate", lambda queries, partners, cos, sin: rotate(queries, partners, cos, -sin))


@mlx_fault
def nothing_hidden(patch: Patch) -> None:
    from hogwild.backends.mlx.attention import ChunkReader

    masks_of = ChunkReader._masks_of
    patch.setattr(ChunkReader, "_masks_of", lambda self, *of: [None] * len(masks_of(self, *of)))


def _without(patch: Patch, option: str) -> None:
    """Attention that is not told of an option."""
    from hogwild.backends.mlx.attention import PassReader

    attend = PassReader.attend
    patch.setattr(
        PassReader, "attend", lambda self, *given, **options: attend(self, *given, **{**options, option: None})
    )


@mlx_fault
def sinks_forgotten(patch: Patch) -> None:
    _without(patch, "sinks")


@mlx_fault
def soft_cap_forgotten(patch: Patch) -> None:
    _without(patch, "softcap")


@mlx_fault
def window_forgotten(patch: Patch) -> None:
    _without(patch, "window")
