"""A model without numbers: tokens are characters, and the test decides what each worker says.

The backend keeps, for each slot, the token and the rotary position that were written, and lays out what every sampled
row sees as flat text: from the plan's slots, indices and offsets alone. So a test reads a worker's view as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hogwild.backends.base import BackendInfo, ForwardResult, LayerSpec, ModelSpec
from hogwild.core.plan import ForwardPlan, GroupPlan
from hogwild.core.rotary import NO_ROTARY
from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.engine import Engine
from hogwild.model import Model
from hogwild.prompts import PromptStyle

EOS, CONTROL = 1, 2
VOCAB = 0x300


class FakeDecoder:
    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class FakeTokenizer:
    """One token for each character; ids 1 and 2 are control tokens."""

    vocab_size = VOCAB
    eos_ids = frozenset({EOS})
    control_ids = frozenset({EOS, CONTROL})
    has_chat_template = False
    chat_template = ""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    encode_document = encode

    def decode(self, ids: Sequence[int], *, skip_control: bool = True) -> str:
        return "".join(map(chr, ids))

    def token_id(self, text: str) -> int | None:
        return ord(text) if len(text) == 1 else None

    def stream_decoder(self) -> FakeDecoder:
        return FakeDecoder()


Say = Callable[[str], str]


@dataclass
class FakeBackend:
    """`say(view)` gives the next character for a row that sees `view`; "EOS" and "NAN" are understood too."""

    pool_owner = None

    say: Say
    context_size: int = 100_000
    num_passes: int = 0
    views: list[list[str]] = field(default_factory=list)  # what the sampled rows of each pass saw
    requests: list[list[SampleRequest]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.tokens = np.zeros(0, dtype=np.int64)
        self.positions = np.zeros(0, dtype=np.int64)
        self.info = BackendInfo("fake", "none", "none", "plain")

    @property
    def spec(self) -> ModelSpec:
        layer = LayerSpec(NO_ROTARY, 1, 1, 1)
        return ModelSpec("fake", 1, 1, 1, VOCAB, self.context_size, 0, 8, (layer,), 0, 0)

    def reserve(self, num_slots: int) -> None:
        missing = max(0, num_slots - len(self.tokens))
        self.tokens = np.append(self.tokens, np.full(missing, -1))
        self.positions = np.append(self.positions, np.full(missing, -1))

    def forward(self, plan: ForwardPlan, *, hidden_states: bool = False) -> ForwardResult:
        self.num_passes += 1
        self.tokens[plan.write_slots] = plan.token_ids
        self.positions[plan.write_slots] = plan.positions
        texts = [self._seen(plan, token) for token in plan.logit_tokens.tolist()]
        self.views.append(texts)
        return ForwardResult(texts)

    def sample(self, logits: list[str], requests: Sequence[SampleRequest]) -> SampleResult:
        self.requests.append(list(requests))
        said = [self.say(text) for text in logits]
        ids = [EOS if word == "EOS" else 0 if word == "NAN" else ord(word) for word in said]
        return SampleResult(np.array(ids), np.array([word != "NAN" for word in said]))

    def close(self) -> None:
        self.closed = True

    def _seen(self, plan: ForwardPlan, token: int) -> str:
        group = next(g for g in plan.groups if g.token_start <= token < g.token_start + g.num_tokens)
        keys = list(self._keys(group, token - group.token_start, int(plan.positions[token])))
        distances = sorted(distance for distance, _ in keys)
        assert distances == list(range(len(keys))), "the keys of a view must fill every distance once"
        return "".join(chr(key) for _, key in sorted(keys, reverse=True))

    def _keys(self, group: GroupPlan, token: int, position: int):
        run, index = group.column_run, group.column_index
        offsets, positions = group.offsets[group.token_row[token]][run], index + group.run_shift[run]
        for column in np.flatnonzero(group.sees(slice(token, token + 1), run, index)[0]):
            slot = group.column_slots[column]
            assert self.positions[slot] == positions[column], "a key moved or was overwritten"
            yield int(position + offsets[column] - self.positions[slot]), int(self.tokens[slot])


STYLE = PromptStyle(
    name="test",
    version=1,
    chat=False,
    user="Q:{problem};",
    names=("A", "B", "C", "D", "E"),
    header="<{name}{step}>",
    texts={"in_progress": "[others]", "separator": "|", "own_header": "[own]"},
    check="same?",
    finish="ANSWER{",
)


def fake_engine(
    say: Say, context_size: int = 100_000, max_cache_tokens: int | None = None
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(say, context_size)
    model = Model("fake", backend, FakeTokenizer(), {})  # type: ignore[arg-type]
    return Engine(model, cache_tokens=min(256, max_cache_tokens or 256), max_cache_tokens=max_cache_tokens), backend
