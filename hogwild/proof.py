"""A small experiment that proves sharing: one worker reads what another writes, in the very pass in which it does.

Only Alice's unfinished step holds a code. Bob's step ends where the code must follow. With Alice's block in his view
Bob continues with the code; with the same tokens and without her block he cannot know it. All of them are fed in one
pass, so Bob reads keys and values that were written in that pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.core.sampling import GREEDY, SampleRequest
from hogwild.model import Model

_PROMPT = "Alice and Bob are looking for the code of the vault.\n\n"
_ALICE = "Alice: I have opened the letter. The code of the vault is {code}, so"
_BOB = "Bob: Alice has found it. The code of the vault is"
_NUM_TOKENS = 6


@dataclass(frozen=True, slots=True)
class SharingProof:
    """What Bob wrote with Alice's unfinished step in his view, and without it."""

    code: str
    with_alice: str
    without_alice: str

    @property
    def holds(self) -> bool:
        """Whether Bob knew the code exactly when he could see Alice's step."""
        return self.with_alice.startswith(self.code) and self.code not in self.without_alice


def prove_sharing(model: Model, code: str = "7311") -> SharingProof:
    """Run the experiment on a loaded model with a code of four digits."""
    cache = SharedCache(model.backend)
    encode = model.tokenizer.encode
    prompt = cache.block(model.tokenizer.encode_document(_PROMPT), name="common")
    alice, bob, alone = (cache.new_block(name) for name in ("alice", "bob", "alone"))
    views = ((prompt, alice, bob), (prompt, alone))
    told = Row((prompt, alice), tuple(encode(_ALICE.format(code=code))), logits="none")
    rows = [told, *(Row(view, tuple(encode(_BOB))) for view in views)]
    request = SampleRequest(GREEDY, banned_ids=sorted(model.tokenizer.control_ids))
    written: list[list[int]] = []
    for _ in range(_NUM_TOKENS):
        result = cache.forward(rows)
        written.append(model.backend.sample(result.logits, [request, request]).token_ids.tolist())
        rows = [Row(view, (token,)) for view, token in zip(views, written[-1], strict=True)]
    for block in (alice, bob, alone, prompt):
        block.clear()
    return SharingProof(code, *(model.tokenizer.decode(list(ids)).strip() for ids in zip(*written, strict=True)))
