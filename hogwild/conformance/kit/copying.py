"""A small model that copies, made by hand: decisive, and right only if attention is.

A random model's likeliest tokens are nearly tied, so that its choices say little about 16 bits. This one continues a
text that it has seen: an induction head (Olsson et al., arXiv 2209.11895). The first layer's first head reads the token
before, whatever it is: query and key are the same constant vector, turned by one position, in the features that turn
fast. The second layer's first head looks for the tokens that were preceded by this one, in features that hardly turn,
and copies them to the output. All other weights are drawn from a seed. One position off, and it copies wrong tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.models.shapes import RandomWeights

Array = NDArray[np.float32]

SEPARATOR = 0
FIRST_TOKEN, END_TOKEN = 5, 250  # ids of the text; those below have no code and are never copied
_CODE, _MOST_ALIKE = 32, 0.4
_SEEN, _BEFORE, _NEXT, _ONE = slice(0, 32), slice(32, 64), slice(64, 96), 96  # features of the residual stream
_FOCUS, _MATCH, _LOUDNESS = 30.0, 26.0, 1.5  # largest score of the first head and of the second; scale of the logits
COPYING: Mapping[str, Any] = {"hidden_size": 128, "head_dim": 64, "rope_theta": 1e8, "initializer_range": 0.015}


def copying_weights(config: Mapping[str, Any], seed: int) -> dict[str, Array]:
    """Every tensor of the model, in float32."""
    drawn = RandomWeights(config, seed)
    weights = {name: np.array(drawn.read(name)) for name in drawn.names()}
    codes = _codes(config["vocab_size"], seed)
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embedding *= 0.3
    embedding[:, : _ONE + 1] = 0
    embedding[:, _SEEN], embedding[:, _ONE] = codes, 1
    head[:, _NEXT] += _LOUDNESS * codes
    size = config["head_dim"]
    for layer, norm, target in ((0, 2.1, _BEFORE), (1, 3.2, _NEXT)):
        query, key, value, output = (weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo")
        unit = (config["hidden_size"] / norm) ** 0.5  # what RMSNorm makes of a feature that is 1
        query[:size], key[:size], value[:size], output[:, :size] = 0, 0, 0, 0
        if layer == 0:
            _look_one_back(query, key, (_FOCUS * size**0.5 / 8) ** 0.5 / unit, config)
        else:
            _look_for_the_same(query, key, (_MATCH * size**0.5) ** 0.5 / unit, size)
        value[:_CODE, _SEEN] = np.eye(_CODE) / unit
        output[target, :_CODE] = np.eye(_CODE)
    return weights


def _codes(vocab_size: int, seed: int) -> Array:
    """`[V, 32]` of length 1, no two of them alike: where two are, rounding decides which one is found."""
    rng, codes = np.random.default_rng(seed), np.zeros((vocab_size, _CODE), np.float32)
    for token in range(FIRST_TOKEN, vocab_size):
        while not codes[token].any() or (codes[:token] @ codes[token]).max() > _MOST_ALIKE:
            drawn = rng.standard_normal(_CODE)
            codes[token] = drawn / np.linalg.norm(drawn)
    return codes


def _look_one_back(query: Array, key: Array, size: float, config: Mapping[str, Any]) -> None:
    half = config["head_dim"] // 2
    fast = np.arange(half // 2)
    angle = config["rope_theta"] ** (-fast / half)
    query[fast, _ONE], query[fast + half, _ONE] = size * np.cos(angle), -size * np.sin(angle)
    key[fast, _ONE] = size


def _look_for_the_same(query: Array, key: Array, size: float, head_dim: int) -> None:
    quarter = head_dim // 4
    slow = np.concatenate([np.arange(quarter, 2 * quarter), np.arange(3 * quarter, 4 * quarter)])[:, None]
    query[slow, np.arange(_CODE) + _SEEN.start] = size * np.eye(_CODE)
    key[slow, np.arange(_CODE) + _BEFORE.start] = size * np.eye(_CODE)


class Copyist:
    """Text that the model can continue: pieces of one text of distinct tokens, each after a separator.

    Attributes:
        text: its tokens; after the last one comes the first.
    """

    def __init__(self, seed: int, length: int = 90) -> None:
        self._rng = np.random.default_rng(seed)
        self.text: list[int] = self._rng.permutation(np.arange(FIRST_TOKEN, END_TOKEN))[:length].tolist()
        self._left: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}
        self._ends = {self.text[-1], SEPARATOR}

    def write(self, worker: int, count: int) -> tuple[int, ...]:
        """The next tokens of a worker."""
        written: list[int] = []
        while len(written) < count:
            if not self._left.get(worker):
                self.end_piece(worker)
                start, length = int(self._rng.integers(0, len(self.text))), int(self._rng.integers(12, 30))
                self._left[worker] = [SEPARATOR, *(2 * self.text)[start : start + length]]
            self._last[worker] = self._left[worker].pop(0)
            written.append(self._last[worker])
        return tuple(written)

    def end_piece(self, worker: int) -> None:
        """The worker's next token is a separator."""
        self._left.pop(worker, None)
        self._ends.add(self._last.get(worker, SEPARATOR))

    def is_known(self, token: int) -> bool:
        """Whether a token was always followed by the same one."""
        return token not in self._ends
