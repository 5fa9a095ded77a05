"""A world whose tokens have vectors: every pass is attended by its plan and by the flat oracle."""

from __future__ import annotations

import random

import numpy as np
from core_invariants import Violation
from oracle import KeyPool, Vectors, flat_attention, plan_attention
from pool_model import World, apply

from hogwild.core.rotary import NO_ROTARY, RotarySpec

DIM, VALUE_DIM, VOCAB = 12, 5, 1200
NAME = "block attention is flat attention"


def _frequencies(pairs: int, theta: float = 50.0) -> tuple[float, ...]:
    return tuple(theta ** -(i / pairs) for i in range(pairs))


SPECS = {
    "half": RotarySpec(_frequencies(6)),
    "interleaved": RotarySpec(_frequencies(6), "interleaved"),
    "partial": RotarySpec(_frequencies(3)),
    "start": RotarySpec(_frequencies(4), start=4),
    "start, interleaved, partial": RotarySpec(_frequencies(3), "interleaved", start=2),
    "with a factor": RotarySpec(_frequencies(6), factor=1.3),
    "none": NO_ROTARY,
}


class Scene:
    """A world, its K/V pool, and the comparison of its last pass."""

    def __init__(
        self, spec: RotarySpec, page_size: int = 3, window: int | None = None, heads: tuple[int, int] = (4, 2)
    ) -> None:
        self.world = World(page_size, num_pages=2, max_pages=None)
        self.vectors = Vectors.random(0, VOCAB, *heads, DIM, VALUE_DIM)
        self.pool = KeyPool(self.vectors, spec)
        self.window = window
        self.world.on_write = lambda slots, keys: self._write(slots, np.array(keys, dtype=np.int64).reshape(-1, 2))

    def do(self, operation: str, a: int, b: int) -> None:
        """One operation; afterwards whatever no block holds is NaN."""
        if self.world.num_tokens < VOCAB - 40:
            apply(self.world, operation, a, b)
            self.pool.resize(self.world.pool.num_slots)
            dead = np.setdiff1d(np.arange(self.world.pool.num_slots), list(self.world.live_slots()))
            self.pool.kill(dead)

    def check(self) -> None:
        """The last pass by its plan, read both ways, against the oracle."""
        passed = self.world.last_pass
        if passed is None:
            return
        expected = np.concatenate(
            [
                flat_attention(self.vectors, [twin.token_ids for twin in view], count, self.pool.spec, self.window)
                for view, count in passed.rows
                if count
            ]
        )
        for tiled in (False, True):
            # The pass writes its own tokens: until then nobody may have.
            self.pool.kill(passed.plan.write_slots)
            got = plan_attention(passed.plan, self.pool, self.window, tiled=tiled)
            error = np.abs(got - expected).max()
            if not error < 1e-10:
                raise Violation(f"{NAME}: off by {error:.1e} ({tiled=}) for {self.pool.spec}")

    def _write(self, slots: np.ndarray, keys: np.ndarray) -> None:
        self.pool.resize(self.world.pool.num_slots)
        self.pool.write(slots, keys[:, 0], keys[:, 1])


def random_scenes(seed: int, num_passes: int = 12) -> None:
    """Some passes in a random history, each compared; raises `Violation`."""
    rng = random.Random(seed)
    spec = list(SPECS.values())[seed % len(SPECS)]
    scene = Scene(spec, rng.choice([1, 3, 16]), rng.choice([None, 4]))
    for _ in range(num_passes):
        for operation in rng.choices(["append", "publish", "fork", "truncate", "drop", "new"], k=4):
            scene.do(operation, rng.getrandbits(16), rng.getrandbits(16))
        scene.do("forward", rng.getrandbits(16), 0)
        scene.check()
