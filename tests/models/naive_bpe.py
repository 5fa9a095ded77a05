"""Byte-pair encoding from its definition: split, spell in bytes, join the pair of lowest rank until none is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import regex

WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_names() -> list[str]:
    """GPT-2's names of the bytes 0 to 255."""
    names, spare = [], 0
    for byte in range(256):
        visible = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        names.append(chr(byte) if visible else chr(256 + spare))
        spare += not visible
    return names


class NaiveBpe:
    """SmolLM2's tokenizer: digits one by one, then GPT-2's words, then merges by rank.

    Its vocabulary lacks a few bytes (six control characters; unassigned planes); the original leaves them out.
    """

    def __init__(self, tokens: Sequence[str], merges: Sequence[str]) -> None:
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(merges)}
        self.bytes = byte_names()

    def encode(self, text: str) -> list[int]:
        return [self.ids[piece] for word in self.words(text) for piece in self.merge(word)]

    def spells(self, text: str) -> bool:
        return all(self.bytes[byte] in self.ids for byte in text.encode())

    def words(self, text: str) -> Iterator[str]:
        for run in regex.split(r"(\p{N})", text):
            yield from WORDS.findall(run)

    def merge(self, word: str) -> list[str]:
        pieces = [name for byte in word.encode() if (name := self.bytes[byte]) in self.ids]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            i = pairs.index(best)
            pieces[i : i + 2] = [best[0] + best[1]]
        return pieces
