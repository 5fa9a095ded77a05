"""Tokens and chat template as the model's authors meant them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Tokenizer:
    """Text to token ids and back (the interface; the models room writes the rest).

    Attributes:
        vocab_size: ids are below this.
        eos_ids: tokens that end a text.
        control_ids: every special token, the eos ids included: never sampled mid-step, never taken from user text.
        has_chat_template: whether `encode_chat` can be used.
    """

    vocab_size: int
    eos_ids: frozenset[int]
    control_ids: frozenset[int]
    has_chat_template: bool

    def encode(self, text: str) -> list[int]:
        """Plain text: never gives a control id, adds no BOS."""
        raise NotImplementedError

    def encode_document(self, text: str) -> list[int]:
        """Plain text as the beginning of a context: with BOS where the model wants one."""
        raise NotImplementedError

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True, **options: Any
    ) -> list[int]:
        """A conversation in the model's template; control tokens come from the template alone, never from a message."""
        raise NotImplementedError

    def decode(self, token_ids: Sequence[int], *, skip_control: bool = True) -> str:
        """Ids to text."""
        raise NotImplementedError
