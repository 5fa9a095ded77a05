"""The rows that a session brings to a pass, each with what is to be done with the token that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hogwild.core.finisher import Finisher
from hogwild.core.plan import Row, view_lengths
from hogwild.core.sampling import SampleRequest
from hogwild.core.worker import Worker


@dataclass(frozen=True, slots=True)
class Feed:
    """One row of the next pass; `request` says how its last token's logits are sampled, None: not at all.

    worker: whose row it is; None for prefill and finishers. take: what to do with the sampled token.
    """

    row: Row
    worker: Worker | None = None
    request: SampleRequest | None = None
    take: Callable[[int], None] | None = None


def first_over_context(feeds: Sequence[Feed], context_size: int) -> Feed | None:
    """The first one whose view would be longer than the context, with the new tokens of all."""
    lengths = view_lengths([feed.row for feed in feeds])
    return next((feed for feed, length in zip(feeds, lengths, strict=True) if length > context_size), None)


def finisher_feeds(finisher: Finisher) -> list[Feed]:
    """What a finisher reads and writes next; nothing when it is done."""
    if finisher.is_done:
        return []
    *forks, last = finisher.rows()
    return [*map(Feed, forks), Feed(last, request=finisher.request(), take=finisher.take)]
