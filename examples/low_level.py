"""The low-level API: an experiment of your own, without prompts, steps or layouts.

Question: how much does an unfinished sentence of one worker change what another one writes next?
"""

import numpy as np

import hogwild

model = hogwild.load("bundled", backend="reference")
cache = hogwild.SharedCache(model.backend)
encode, decode = model.tokenizer.encode, model.tokenizer.decode


def ids(text: str) -> tuple[int, ...]:
    return tuple(encode(text))


# Blocks from token ids. `block` prefills: `rule` is read in the context of `prompt`, and so are the keys it leaves.
prompt = cache.block(model.tokenizer.encode_document("Alice and Bob are looking for the code of the vault.\n\n"))
rule = cache.block(encode("They write down what they find.\n\n"), context=[prompt], name="rule")
alice, bob, carol = (cache.new_block(name) for name in ("alice", "bob", "carol"))

# One pass: three workers with 20 or so new tokens each. Bob sees Alice's tokens of this very pass; Carol does not.
bob_and_carol_say = ids("Alice has found it. The code of the vault is ")
result = cache.forward(
    [
        hogwild.Row((prompt, rule, alice), ids("Alice: I have opened the letter. The code of the vault is 7311, so")),
        hogwild.Row((prompt, rule, alice, bob), bob_and_carol_say),
        hogwild.Row((prompt, rule, carol), bob_and_carol_say),
    ]
)
logits = cache.to_numpy(result)  # [3, V] float32: the last token of each row
seven = encode("7")[0]
for name, row in zip(("alice", "bob", "carol"), logits, strict=True):
    probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    print(f"{name:5s} would write {decode([int(row.argmax())])!r}; P('7') = {probabilities[seven]:.3f}")


def write_greedily(view: tuple[hogwild.Block, ...], first: np.ndarray, num_tokens: int) -> str:
    """Feed one token after the other to the last block of `view`, from the logits `first` on."""
    row, written = first, []
    for _ in range(num_tokens):
        written.append(int(row.argmax()))
        row = cache.to_numpy(cache.forward([hogwild.Row(view, (written[-1],))]))[0]
    return decode(written)


# A fork shares pages with its original; writing to one leaves the other as it was.
trial = bob.fork("trial")
print(f"bob, in a fork, goes on:   {write_greedily((prompt, rule, alice, trial), logits[1], 6)!r}")
print(f"carol, without alice:      {write_greedily((prompt, rule, carol), logits[2], 6)!r}")
assert len(bob) == len(bob_and_carol_say) < len(trial)
trial.clear()  # its pages go back to the pool
carol.truncate(len(bob_and_carol_say))  # as if she had not gone on

# Publishing: Alice's sentence moves to the end of the prompt. Pages change hands, and not a bit of a key is touched.
keys_before, _ = cache.read_kv(alice, layer=0)
num_before, num_alice = len(prompt), len(alice)
prompt.link(alice)
keys_after, _ = cache.read_kv(prompt, layer=0)
assert np.array_equal(keys_after[num_before:], keys_before)
assert len(alice) == 0
print(f"published {num_alice} tokens; the prompt has {len(prompt)} in {prompt.num_runs} runs now")

# Carol reads it from there at once, since her query is turned for it and nothing is computed again.
carol.truncate(len(carol) - 1)  # feed her last token once more, to get logits that know of it
row = cache.to_numpy(cache.forward([hogwild.Row((prompt, rule, carol), bob_and_carol_say[-1:])]))[0]
print(f"carol, after publishing:   {write_greedily((prompt, rule, carol), row, 6)!r}")
print(f"the cache holds {cache.kv_bytes_used / 2**20:.1f} MiB of keys and values")
