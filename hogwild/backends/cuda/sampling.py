"""Choosing tokens on the device, by the definition in `hogwild.core.sampling`.

Thresholds and the draw are computed in float64, so that a choice depends on the logits alone. All numbers of the
requests go to the device in one transfer, and `choose` is made of device operations only, so that a CUDA graph can
hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hogwild.core.sampling import SampleRequest, SampleResult
from hogwild.errors import TokenError

TOP_P_FIRST = 1024  # on a CPU: how many of the most likely tokens are sorted before the whole vocabulary is
_HIDDEN = float("-inf")
_COLUMNS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Kinds:
    """Which operations some row of a batch needs.

    `top_k` is the largest one that is asked for, 0 for none; `top_p` how many of the most likely tokens it looks at:
    beyond those of a row's top-k are only ties of the last one. 0 for none.
    """

    draws: bool
    top_k: int
    top_p: int
    min_p: bool


@dataclass(frozen=True, slots=True)
class Numbers:
    """What n rows of a vocabulary of V are sampled with.

    A place is `row * V + token`; n * V is no place, and stands where there is nothing to say.
    """

    columns: Tensor  # [6, n] float64: temperature, top-k, top-p, min-p, repetition penalty, uniform
    seen: Tensor  # [S] int64, places whose scores are penalised
    banned: Tensor  # [B] int64, places that are never chosen


@torch.inference_mode()
def sample(logits: Tensor, requests: Sequence[SampleRequest]) -> SampleResult:
    """Choose one token for each row of `logits [n, V]`; one transfer there and one back.

    `TokenError` for a banned or seen id outside the vocabulary.
    """
    assert len(logits) == len(requests), f"{len(logits)} rows of logits, {len(requests)} requests"
    if not requests:
        return SampleResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))
    columns, seen, banned = host_numbers(requests, logits.shape[1])
    packed = torch.from_numpy(np.concatenate([columns.view(np.int64).ravel(), seen, banned]))
    numbers = unpack(packed.to(logits.device, non_blocking=True), len(requests), len(seen))
    return to_result(choose(logits, numbers, kinds_of(requests, logits.shape[1])))


def kinds_of(requests: Sequence[SampleRequest], vocab_size: int) -> Kinds:
    """What the rows need."""
    warm = [request.params for request in requests if request.params.temperature > 0]
    return Kinds(
        draws=bool(warm),
        top_k=min(max((params.top_k for params in warm), default=0), vocab_size),
        top_p=min(max((params.top_k or vocab_size for params in warm if params.top_p < 1), default=0), vocab_size),
        min_p=any(params.min_p > 0 for params in warm),
    )


def host_numbers(
    requests: Sequence[SampleRequest], vocab_size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """`Numbers` as arrays: columns `[6, n]`, places of seen and of banned ids."""
    params = [request.params for request in requests]
    columns = [[float(getattr(entry, name)) for entry in params] for name in _COLUMNS]
    uniforms = [request.uniform for request in requests]
    penalised = [request.history_ids if request.params.repetition_penalty != 1.0 else () for request in requests]
    seen = _places(penalised, vocab_size)
    banned = _places([request.banned_ids for request in requests], vocab_size)
    return np.array([*columns, uniforms], dtype=np.float64), seen, banned


def unpack(packed: Tensor, num_rows: int, num_seen: int) -> Numbers:
    """`Numbers` from one int64 array: the bits of the columns, then the seen, then the banned places."""
    end = (len(_COLUMNS) + 1) * num_rows
    columns = packed[:end].view(torch.float64).view(-1, num_rows)
    return Numbers(columns, packed[end : end + num_seen], packed[end + num_seen :])


def to_result(chosen: Tensor) -> SampleResult:
    """Bring back what `choose` gives."""
    tokens, finite = chosen.cpu().numpy()
    return SampleResult(tokens, finite.astype(np.bool_))


def choose(logits: Tensor, numbers: Numbers, kinds: Kinds) -> Tensor:
    """`[2, n]` int64: the token of each row of `logits [n, V]`, and whether the row was finite."""
    num_rows, vocab_size = logits.shape
    room = logits.new_zeros(num_rows * vocab_size + 1, dtype=torch.float64)  # the last one is no place
    scores = room[:-1].view(num_rows, vocab_size)
    scores.copy_(logits)
    finite = scores.amax(-1).isfinite()
    temperature, top_k, top_p, min_p, penalty, uniform = (column[:, None] for column in numbers.columns)
    _apply_history(room, numbers, penalty[:, 0], vocab_size)
    best = scores.amax(-1, keepdim=True)
    tokens = scores.argmax(-1)
    if kinds.draws:
        warm = temperature > 0
        kept = _keep((scores - best) / temperature.where(warm, 1.0), kinds, top_k, top_p, min_p)
        tokens = torch.where(warm[:, 0], _draw(kept, uniform[:, 0]), tokens)
    return torch.stack([tokens, (finite & best[:, 0].isfinite()).long()])


def _places(ids: Sequence[Sequence[int] | NDArray[np.int64]], vocab_size: int) -> NDArray[np.int64]:
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    tokens = np.concatenate([np.empty(0, dtype=np.int64), *(np.asarray(row, dtype=np.int64) for row in ids)])
    bad = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(bad):
        raise TokenError("a token id is outside the vocabulary", expected=f"0..{vocab_size - 1}", got=str(int(bad[0])))
    return np.asarray(rows * vocab_size + tokens)


def _apply_history(room: Tensor, numbers: Numbers, penalty: Tensor, vocab_size: int) -> None:
    """Repetition penalty and banned ids, in place. The two commute, as a banned id stays at minus infinity."""
    if len(numbers.seen):
        factor = penalty[(numbers.seen // vocab_size).clamp_(max=len(penalty) - 1)]
        values = room[numbers.seen]
        room[numbers.seen] = torch.where(values > 0, values / factor, values * factor)
    if len(numbers.banned):
        room.index_fill_(0, numbers.banned, _HIDDEN)


def _keep(scores: Tensor, kinds: Kinds, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Hide the tokens that top-k, top-p and min-p drop; ties with a threshold stay. The best score is 0."""
    if kinds.top_k:
        ranked = scores.topk(kinds.top_k, dim=-1).values
        last = top_k.where(top_k > 0, kinds.top_k).clamp(max=kinds.top_k).long() - 1
        threshold = ranked.gather(-1, last).where(top_k > 0, _HIDDEN)
        scores = scores.where(scores >= threshold, _HIDDEN)
    if kinds.top_p:
        scores = scores.where((scores >= _top_p_threshold(scores, top_p, kinds.top_p)) | (top_p >= 1), _HIDDEN)
    if kinds.min_p:
        scores = scores.where(scores.exp() >= min_p, _HIDDEN)
    return scores


def _top_p_threshold(scores: Tensor, top_p: Tensor, most: int) -> Tensor:
    """The score `[n, 1]` of the last token that is needed to reach the probability `top_p [n, 1]`, of `most` tokens."""
    goal = top_p * scores.exp().sum(-1, keepdim=True)
    count = min(TOP_P_FIRST, most) if scores.device.type == "cpu" else most
    ranked = scores.topk(count, dim=-1).values
    mass = ranked.exp().cumsum(-1)
    if count < most and not bool((mass[:, -1:] >= goal)[top_p < 1].all()):
        ranked = scores.sort(dim=-1, descending=True).values
        mass = ranked.exp().cumsum(-1)
    last = (mass < goal).sum(-1, keepdim=True).clamp_(max=ranked.shape[1] - 1)
    return ranked.gather(-1, last)


def _draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """The first token whose cumulative weight, in vocabulary order, exceeds `uniform [n]` times the total."""
    mass = scores.exp().cumsum(-1)
    total = mass[:, -1]
    # The product may round up to the total, which nothing exceeds.
    goal = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    reached = (mass > goal[:, None]) & (scores > _HIDDEN)
    return reached.to(torch.uint8).argmax(-1)
