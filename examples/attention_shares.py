"""Whom does a worker attend to? By block, by layer and head, and by token.

Question: Bob is about to repeat what Alice is just writing. Which head reads her, and which of her tokens?
"""

import numpy as np

import hogwild

model = hogwild.load("bundled", backend="reference")
cache = hogwild.SharedCache(model.backend)
encode, decode = model.tokenizer.encode, model.tokenizer.decode

prompt = cache.block(model.tokenizer.encode_document("Alice and Bob look for the code of the vault.\n\n"))
alice, bob = cache.new_block("alice"), cache.new_block("bob")
rows = [
    hogwild.Row((prompt, bob, alice), tuple(encode("Alice: The code of the vault is 7311, so"))),
    hogwild.Row((prompt, alice, bob), tuple(encode("Bob: Alice has found it. The code of the vault is"))),
]
cache.forward(rows)

# The same rows again: the model runs once more, writes nothing, and tells what the tokens of each row attended to.
shares = cache.attention_shares(rows, {alice: 0, bob: 1, prompt: 2})
print(f"{shares.shape[0]} layers, {shares.shape[1]} rows, {shares.shape[2]} columns")
for reader, (to_alice, to_bob, to_prompt) in zip(("alice", "bob"), shares.mean(axis=0), strict=True):
    print(f"{reader:5s} attends to alice {to_alice:.1%}, bob {to_bob:.1%}, prompt {to_prompt:.1%}")

# Of Bob's last token alone, with a column for each token of Alice: 0, 1, 2, ...
last = hogwild.Row((prompt, alice, bob), (int(bob.token_ids[-1]),))
columns = {alice: np.arange(len(alice)), bob: len(alice), prompt: len(alice)}
of_alice = cache.attention_shares([last], columns, by_head=True)[:, :, 0, : len(alice)]  # [layers, heads, her tokens]
layer, head = np.unravel_index(of_alice.sum(axis=2).argmax(), of_alice.shape[:2])
print(f"most in layer {layer}, head {head}, counted from 0: {of_alice[layer, head].sum():.1%}, of which")
for token in of_alice[layer, head].argsort()[:-4:-1]:
    print(f"  {of_alice[layer, head, token]:.1%} to {decode([int(alice.token_ids[token])])!r}")
