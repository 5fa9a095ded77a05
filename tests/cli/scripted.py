"""A model without a network, for the command line: it draws pieces of text from the workers' own random numbers.

`python -m tests.cli.scripted [--pause SECONDS] ARGUMENTS...` is the command `hogwild` with this model for any other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hogwild.backends.base import BackendInfo, ForwardResult, LayerSpec, ModelSpec
from hogwild.core.plan import ForwardPlan
from hogwild.core.rotary import NO_ROTARY
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.model import Model

PIECES = (
    "alpha ", "beta ", "gamma ", "so ", "[red]bold[/red] ", "日本語 ", "\x1b[31mnot red\x07 ", "naïve, ",
    "a-rather-long-word-without-a-break ", "17 * 23 = ", "that is it.\n\n", "\\boxed{391}.\n\n",
)  # fmt: skip
EOS, FIRST_PIECE, FIRST_CHARACTER = 1, 10, 1000
NO_ANSWER = PIECES[:-1]


class Decoder:
    def push(self, token_id: int) -> str:
        return chr(token_id - FIRST_CHARACTER) if token_id >= FIRST_CHARACTER else PIECES[token_id - FIRST_PIECE]

    def flush(self) -> str:
        return ""


class Tokenizer:
    """A token for each character, and one for each piece."""

    vocab_size = FIRST_CHARACTER + 0x110000
    eos_ids = frozenset({EOS})
    control_ids = frozenset({EOS})
    has_chat_template = True
    chat_template = ""

    def encode(self, text: str) -> list[int]:
        return [ord(character) + FIRST_CHARACTER for character in text]

    encode_document = encode

    def encode_chat(self, messages: Sequence[dict[str, str]], **options: object) -> list[int]:
        return [token for message in messages for token in self.encode(message["content"])]

    def token_id(self, text: str) -> int | None:
        return None

    def stream_decoder(self) -> Decoder:
        return Decoder()


@dataclass
class Backend:
    """Choices depend on the uniform numbers of the requests alone."""

    pool_owner = None

    num_pieces: int = len(PIECES)
    pause: float = 0.0
    context_size: int = 8192
    fail_after: int | None = None
    num_passes: int = 0

    def __post_init__(self) -> None:
        self.info = BackendInfo("scripted", "none", "none", "none")
        self.spec = ModelSpec("scripted", 1, 1, 1, Tokenizer.vocab_size, self.context_size, 1, 16, (_LAYER,), 4, 0)

    def reserve(self, num_slots: int) -> None:
        pass

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        if self.pause:
            time.sleep(self.pause)
        self.num_passes += 1
        if self.fail_after is not None and self.num_passes > self.fail_after:
            from hogwild.errors import PoolExhausted

            raise PoolExhausted("the device has no room")
        return ForwardResult(np.zeros((len(plan.logit_tokens), 1)))

    def sample(self, logits: object, requests: Sequence[SampleRequest]) -> SampleResult:
        ids = [FIRST_PIECE + int(request.uniform * self.num_pieces) for request in requests]
        return SampleResult(np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=bool))

    def close(self) -> None:
        pass


_LAYER = LayerSpec(NO_ROTARY, 1, 1, 1)


def model(name: str = "scripted", **settings: object) -> Model:
    return Model(name, Backend(**settings), Tokenizer(), {"top_k": 7})  # type: ignore[arg-type]


def main() -> None:
    """The command line with this model: `--pause` first, if at all."""
    from hogwild.cli import generate
    from hogwild.cli.app import app

    arguments, pause = sys.argv[1:], 0.0
    if arguments[0] == "--pause":
        pause, arguments = float(arguments[1]), arguments[2:]
    generate.load = lambda name, **options: model(name, pause=pause, num_pieces=len(NO_ANSWER))
    app(arguments)


if __name__ == "__main__":
    main()
