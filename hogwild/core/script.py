"""What a session needs of prompts and of a tokenizer: two small protocols, so that the core knows neither."""

from __future__ import annotations

from typing import Protocol


class StreamDecoder(Protocol):
    """Token ids to text, as the text becomes certain."""

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; empty within a multi-byte character."""
        ...

    def flush(self) -> str:
        """What was held back, with replacement characters for broken bytes."""
        ...


class Codec(Protocol):
    """A tokenizer, as far as a session uses one."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        ...

    @property
    def control_ids(self) -> frozenset[int]:
        """Every special token, those that end a text included."""
        ...

    def stream_decoder(self) -> StreamDecoder:
        """A new decoder for one stream of tokens."""
        ...


class Script(Protocol):
    """Everything that is said to the workers of one session, as token ids. Workers count from 0, steps from 1."""

    @property
    def problem(self) -> str:
        """The user's text."""
        ...

    @property
    def style(self) -> str:
        """Name and version of the prompt style."""
        ...

    @property
    def text_names(self) -> tuple[str, ...]:
        """Texts and labels that a layout may name."""
        ...

    def prompt_ids(self) -> list[int]:
        """What every view begins with."""
        ...

    def text_ids(self, name: str) -> list[int]:
        """A text that all workers share."""
        ...

    def label_ids(self, name: str, worker: int) -> list[int]:
        """A worker's own copy of a text."""
        ...

    def name_of(self, worker: int) -> str:
        """A worker's name."""
        ...

    def header_ids(self, worker: int, step: int) -> list[int]:
        """What a step begins with; may be empty."""
        ...

    def check_ids(self) -> list[int]:
        """The question of the collaboration check."""
        ...

    def step_end_ids(self) -> list[int]:
        """What ends a step by force: a blank line."""
        ...

    def finish_ids(self) -> list[int]:
        """What asks for the final answer when time is up; empty when the style asks for none."""
        ...

    def forced_answer(self, text: str, is_last: bool) -> str | None:
        """The answer in what was written after `finish_ids`; None while it is incomplete and more may come."""
        ...

    def find_answer(self, text: str) -> str | None:
        """A final answer in a worker's own text, or None."""
        ...
