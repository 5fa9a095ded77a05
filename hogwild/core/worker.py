"""One worker's state: what it writes, what it must write next, and its account of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hogwild.core.arrays import IntArray
from hogwild.core.blocks import Block
from hogwild.core.events import WorkerReason
from hogwild.core.plan import Row
from hogwild.core.sampling import SampleRequest, SamplingParams
from hogwild.core.script import Codec, StreamDecoder
from hogwild.core.steps import ends_sentence

NUMBERS_A_COUNT = 4  # that Philox makes


class Uniforms:
    """Worker `index`'s random numbers in a session with that seed, by their place: asking twice changes nothing."""

    def __init__(self, seed: int, index: int) -> None:
        key = np.random.SeedSequence([seed, index]).generate_state(2, np.uint64).astype(np.uint64)
        self._bits = np.random.Philox(key=key, counter=0)
        self._generator = np.random.Generator(self._bits)
        self._start: Any = self._bits.state
        self._first, self._drawn = 0, list[float]()  # those of the places from `_first` on

    def __getitem__(self, place: int) -> float:
        """A number from 0 up to, but not, 1."""
        if not 0 <= place - self._first < len(self._drawn):
            self._draw(place)
        return self._drawn[place - self._first]

    def _draw(self, place: int) -> None:
        """Some at once: to set the generator to a place takes longer than to draw. A place is a count of Philox."""
        self._start["state"]["counter"][0] = place
        self._bits.state = self._start
        self._first, self._drawn = place, self._generator.random(64 * NUMBERS_A_COUNT)[::NUMBERS_A_COUNT].tolist()


class BannedIds(NamedTuple):
    """Tokens that a worker never samples, `but_ends`, and `all` that it does not sample within a sentence."""

    all: IntArray
    but_ends: IntArray

    @staticmethod
    def of(codec: Codec, params: SamplingParams) -> BannedIds:
        """Its parameters' own and the control tokens, ascending; the ends of a text only within a sentence."""
        both = codec.control_ids, codec.control_ids - codec.eos_ids
        return BannedIds(*(np.array(sorted(ids.union(params.banned_ids)), dtype=np.int64) for ids in both))


@dataclass(slots=True)
class Worker:
    """A worker of a session.

    Attributes:
        own: the block that it writes: its unfinished step, or everything in layouts that do not publish.
        pending: tokens that were sampled or forced and go to `own` in the next pass.
        closing: a finished step whose last tokens, `closing_ids`, are fed in the next pass; then it is published.
            It is step number `closing_step`.
        step: number of the step it is in, from 1.
        step_text: what it sampled in this step; num_step_sampled: in how many tokens.
        num_own_sampled: how many sampled tokens `own` and `pending` hold.
        text: everything that it sampled.
    """

    index: int
    name: str
    params: SamplingParams
    banned: BannedIds
    uniforms: Uniforms
    own: Block
    decoder: StreamDecoder
    pending: list[int] = field(default_factory=list)
    closing: Block | None = None
    closing_ids: list[int] = field(default_factory=list)
    closing_step: int = 0
    step: int = 1
    step_text: str = ""
    num_step_sampled: int = 0
    num_own_sampled: int = 0
    text: str = ""
    joined: bool = False
    ended: WorkerReason | None = None
    answer: str | None = None
    num_sampled: int = 0
    num_forced: int = 0
    num_stored: int = 0
    num_released: int = 0
    seen: set[int] = field(default_factory=set)

    @property
    def is_active(self) -> bool:
        """Whether it writes."""
        return self.joined and self.ended is None

    @property
    def has_rows(self) -> bool:
        """Whether tokens of its wait to be stored; one that ended for lack of room stores no more in its own block."""
        return bool(self.closing_ids) or (bool(self.pending) and self.ended != "length")

    @property
    def text_in_own(self) -> bool:
        """Whether `own` (with what is pending for it) holds anything that the worker said itself."""
        return self.num_own_sampled > 0

    @property
    def num_written(self) -> int:
        """Tokens sampled and forced so far."""
        return self.num_sampled + self.num_forced

    def note_stored(self, row: Row) -> None:
        """The tokens of one of its rows, which waited for that, are in the cache now."""
        self.num_stored += len(row.token_ids)
        if row.own is self.closing:
            self.closing_ids = []
        else:
            self.pending = []

    def release(self, block: Block) -> None:
        """Forget what it wrote in a block that will not be published."""
        self.num_released += len(block)
        self.num_stored -= len(block)
        block.clear()

    def drop_pending(self) -> None:
        """Forget the tokens that wait for `own`."""
        self.num_released += len(self.pending)
        self.pending = []

    def drop_closing_ids(self) -> None:
        """Forget the tokens that wait for `closing`."""
        self.num_released += len(self.closing_ids)
        self.closing_ids = []

    def usage(self) -> dict[str, int]:
        """Its account: forced + sampled = stored + pending + released, after every pass."""
        return {
            "worker": self.index,
            "steps": self.step - (self.num_step_sampled == 0),
            "forced": self.num_forced,
            "sampled": self.num_sampled,
            "stored": self.num_stored,
            "pending": len(self.pending) + len(self.closing_ids),
            "released": self.num_released,
        }

    def request(self, eos_anywhere: bool) -> SampleRequest:
        """How its next token is sampled: without control tokens, but for an end of text at a sentence's end."""
        may_end = eos_anywhere or not self.step_text.strip() or ends_sentence(self.step_text)
        penalised = self.params.repetition_penalty != 1.0
        return SampleRequest(
            params=self.params,
            uniform=self.uniforms[self.num_sampled],
            banned_ids=self.banned.but_ends if may_end else self.banned.all,
            history_ids=sorted(self.seen) if penalised else (),
        )
