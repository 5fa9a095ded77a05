"""Long texts by torch's own attention: a lone row that reads nothing but its own block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from hogwild.backends.cuda.stored import Stored
from hogwild.core.plan import ForwardPlan, GroupPlan

MIN_TOKENS = 64  # from which on torch's own attention is the better one


@dataclass(frozen=True, slots=True)
class Prefill:
    """A lone row that reads one run, side by side in the pool: its tokens, and the run's slots."""

    tokens: slice
    slots: slice

    def attend(self, q: Tensor, keys: Stored, values: Stored, scale: float, out: Tensor) -> None:
        """Ordinary causal attention on the slots where they lie, from `q [1, H, T, Dk]` to `out [1, T, H, Dv]`."""
        k, v = (x.cut(self.slots.start, self.slots.stop).as_numbers(q.dtype) for x in (keys, values))
        num_tokens, num_keys = self.tokens.stop - self.tokens.start, k.shape[1]
        whole = num_tokens == num_keys
        attended = scaled_dot_product_attention(
            q[:, :, self.tokens],
            k[None],
            v[None],
            attn_mask=None if whole else causal_lower_right(num_tokens, num_keys),
            is_causal=whole,
            scale=scale,
            enable_gqa=q.shape[1] != len(k),
        )
        out[:, self.tokens] = attended.transpose(1, 2)


def lone_rows(plan: ForwardPlan) -> dict[int, Prefill]:
    """The groups of a pass that are prefills, by number."""
    found = {g: _prefill(group) for g, group in enumerate(plan.groups)}
    return {g: prefill for g, prefill in found.items() if prefill is not None}


def _prefill(group: GroupPlan) -> Prefill | None:
    """The group as a prefill, if it is a long row that reads its own block alone, unturned and in one piece."""
    slots = group.column_slots
    if (
        group.num_tokens < MIN_TOKENS
        or group.turns.shape != (1, 1)
        or group.num_runs != 1
        or group.offsets[0, 0] != 0
        or slots[-1] - slots[0] != len(slots) - 1
        or (np.diff(slots) != 1).any()
    ):
        return None
    start = int(slots[0])
    return Prefill(slice(group.token_start, group.token_start + group.num_tokens), slice(start, start + len(slots)))
