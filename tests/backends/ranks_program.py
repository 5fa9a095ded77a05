"""A program that several processes run together; prints what rank 0 sees, as JSON.

usage: ranks_program.py MODEL REFUSED_MODEL BACKEND
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

import hogwild
from hogwild.cache import SharedCache
from hogwild.core.plan import Row
from hogwild.errors import HogwildError


def decode(model: hogwild.Model, passes: int = 30) -> dict[str, object]:
    """Three workers over a common block; each publishes now and then."""
    cache = SharedCache(model.backend, num_tokens=64)
    common = cache.block(list(range(5, 45)))
    owns = [cache.new_block(str(i)) for i in range(3)]
    tokens, written = [50, 60, 70], []
    for number in range(passes):
        rows = [
            Row((common, *(other for other in owns if other is not own), own), (token,))
            for own, token in zip(owns, tokens, strict=True)
        ]
        logits = cache.to_numpy(cache.forward(rows))
        tokens = logits.argmax(axis=-1).tolist()
        written.append(tokens)
        if number % 7 == 6:
            common.link(owns[number % 3])
    shares = cache.attention_shares(rows, by_head=True)
    keys, values = cache.read_kv(common, 1)
    return {
        "tokens": written,
        "logits": np.round(logits, 4).tolist(),
        "kv_shapes": [keys.shape, values.shape],
        "keys": np.round(keys[::9], 4).tolist(),
        "shares": np.round(shares, 5).tolist(),
        "spec": [model.spec.num_heads, model.spec.kv_bytes_per_token],
        "attention": model.backend.info.attention,
    }


def answers(folder: str, refused: str, backend: str) -> dict[str, Any]:
    """What two models say, one after the other, and why a third one is refused."""
    found = []
    for _ in range(2):  # the second time with the same followers
        model = hogwild.load(folder, backend=backend, dtype="float32", device="cpu")
        found.append(decode(model))
        model.close()
    try:
        hogwild.load(refused, backend=backend, dtype="float32", device="cpu")
    except HogwildError as error:
        refusal = str(error)
    else:
        refusal = ""
    return {"runs": found, "refusal": refusal}


if __name__ == "__main__":
    print(json.dumps(answers(*sys.argv[1:])))
