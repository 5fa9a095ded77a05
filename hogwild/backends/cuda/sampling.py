"""Choosing tokens on the device, by the definition in `hogwild.core.sampling`.

Thresholds and the draw are computed in float64, so that a choice depends on the logits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hogwild.core.sampling import SampleRequest, SampleResult, SamplingParams
from hogwild.errors import TokenError

TOP_P_FIRST = 1024  # on a CPU: how many of the most likely tokens are sorted before the whole vocabulary is
_HIDDEN = float("-inf")


@torch.inference_mode()
def sample(logits: Tensor, requests: Sequence[SampleRequest]) -> SampleResult:
    """Choose one token for each row of `logits [n, V]`; one transfer back.

    `TokenError` for a banned or seen id outside the vocabulary.
    """
    assert len(logits) == len(requests), f"{len(logits)} rows of logits, {len(requests)} requests"
    if not requests:
        return SampleResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))
    scores = logits.to(torch.float64, copy=True)
    finite = scores.amax(-1).isfinite()
    _apply_history(scores, requests)
    best = scores.amax(-1, keepdim=True)
    tokens = scores.argmax(-1)
    params = [request.params for request in requests]
    if any(p.temperature > 0 for p in params):
        column = _columns(scores, params)
        heat = column(lambda p: p.temperature or 1.0)
        drawn = _draw(_keep((scores - best) / heat, params, column), scores.new_tensor([r.uniform for r in requests]))
        tokens = torch.where(column(lambda p: p.temperature)[:, 0] > 0, drawn, tokens)
    result = torch.stack([tokens, (finite & best[:, 0].isfinite()).long()]).cpu().numpy()
    return SampleResult(result[0], result[1].astype(np.bool_))


def _columns(scores: Tensor, params: Sequence[SamplingParams]) -> Callable[[Callable[[SamplingParams], float]], Tensor]:
    """A maker of `[n, 1]` tensors with one parameter of each row."""
    return lambda read: scores.new_tensor([[float(read(p))] for p in params])


def _apply_history(scores: Tensor, requests: Sequence[SampleRequest]) -> None:
    """Repetition penalty and banned ids, in place. The two commute, as a banned id stays at minus infinity."""
    penalties = [request.params.repetition_penalty for request in requests]
    seen = _pairs([r.history_ids if p != 1.0 else () for r, p in zip(requests, penalties, strict=True)], scores)
    if seen is not None:
        penalty = scores.new_tensor(penalties)[seen[0]]
        values = scores[seen]
        scores[seen] = torch.where(values > 0, values / penalty, values * penalty)
    banned = _pairs([request.banned_ids for request in requests], scores)
    if banned is not None:
        scores[banned] = _HIDDEN


def _pairs(ids: Sequence[Sequence[int] | NDArray[np.int64]], scores: Tensor) -> tuple[Tensor, Tensor] | None:
    """Row and token of every id, on the device; None when there is no id."""
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    if not len(rows):
        return None
    tokens = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    bad = tokens[(tokens < 0) | (tokens >= scores.shape[1])]
    if len(bad):
        raise TokenError(
            "a token id is outside the vocabulary", expected=f"0..{scores.shape[1] - 1}", got=str(int(bad[0]))
        )
    return torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)


def _keep(scores: Tensor, params: Sequence[SamplingParams], column: Callable[..., Tensor]) -> Tensor:
    """Hide the tokens that top-k, top-p and min-p drop; ties with a threshold stay. The best score is 0."""
    if any(p.top_k for p in params):
        most = min(max(p.top_k for p in params), scores.shape[1])
        ranked = scores.topk(most, dim=-1).values
        last = column(lambda p: min(p.top_k or most, most) - 1).long()
        threshold = ranked.gather(-1, last).where(column(lambda p: p.top_k) > 0, _HIDDEN)
        scores = scores.where(scores >= threshold, _HIDDEN)
    if any(p.top_p < 1 for p in params):
        top_p = column(lambda p: p.top_p)
        scores = scores.where((scores >= _top_p_threshold(scores, top_p)) | (top_p >= 1), _HIDDEN)
    if any(p.min_p for p in params):
        scores = scores.where(scores.exp() >= column(lambda p: p.min_p), _HIDDEN)
    return scores


def _top_p_threshold(scores: Tensor, top_p: Tensor) -> Tensor:
    """The score `[n, 1]` of the last token that is needed to reach the probability `top_p [n, 1]`."""
    goal = top_p * scores.exp().sum(-1, keepdim=True)
    size = scores.shape[1]
    count = min(TOP_P_FIRST, size) if scores.device.type == "cpu" else size
    ranked = scores.topk(count, dim=-1).values
    mass = ranked.exp().cumsum(-1)
    if count < size and not bool((mass[:, -1:] >= goal)[top_p < 1].all()):
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
