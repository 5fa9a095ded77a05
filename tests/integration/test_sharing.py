"""The proof of sharing holds for many codes, on every backend."""

from __future__ import annotations

import random

from hogwild.model import Model
from hogwild.proof import prove_sharing

rng = random.Random(7)
CODES = [f"{rng.randrange(1000, 10000)}" for _ in range(5)]


def test_bob_reads_the_code_from_the_step_that_alice_is_writing(model: Model):
    proofs = [prove_sharing(model, code) for code in CODES]
    assert [proof.code for proof in proofs if not proof.holds] == []
    assert len({proof.without_alice for proof in proofs}) == 1, "without Alice's block nothing can depend on the code"
