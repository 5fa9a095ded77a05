"""A run as one JSON object, from its transcript and the first line of its trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hogwild.transcript import Step, Transcript, WorkerState


def report(transcript: Transcript, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a run, as plain data."""
    started = transcript.started
    steps = [*transcript.finished, *transcript.unfinished]
    return {
        "answer": transcript.answer,
        "reason": transcript.reason,
        "problem": started.problem if started else None,
        "answers": [{"worker": a.worker, "answer": a.answer, "source": a.source} for a in transcript.answers],
        "budgets": [{"passes": b.budget, "answer": b.answer} for b in transcript.budgets],
        "workers": [_worker(transcript, worker) for worker in transcript.workers.values()],
        "steps": [_step(step) for step in steps],
        "published": [[step.worker, step.number] for step in transcript.published],
        "checks": [[check.worker, check.step] for check in transcript.checks],
        "attention": [
            {"pass": m.pass_index, "workers": m.workers, "columns": m.columns, "shares": m.shares}
            for m in transcript.attention
        ],
        "timing": {
            "prompt_seconds": transcript.prompt_seconds,
            "passes": transcript.num_passes,
            "decode_seconds": transcript.seconds,
            "tokens_per_second": transcript.tokens_per_second,
        },
        "cache": _cache(transcript),
        "usage": {
            "prompt": started.num_prompt_tokens if started else 0,
            "sampled": transcript.num_sampled,
            "forced": transcript.num_forced,
        },
        "layout": started.layout if started else None,
        "prompt_style": started.prompt_style if started else None,
        "options": started.options if started else {},
        "model": facts.get("model", {"name": started.model, "backend": started.backend} if started else None),
        "versions": facts.get("versions", {}),
    }


def _worker(transcript: Transcript, worker: WorkerState) -> dict[str, Any]:
    own = [step for step in transcript.finished if step.worker == worker.index]
    current = [step for step in transcript.unfinished if step.worker == worker.index]
    account = next((entry for entry in transcript.usage if entry.get("worker") == worker.index), None)
    return {
        "worker": worker.index,
        "name": worker.name,
        "text": "".join(step.text for step in [*own, *current]),
        "steps": len(own) + len(current),
        "sampled": worker.num_sampled,
        "forced": worker.num_forced,
        "tokens_per_second": transcript.tokens_per_second_of(worker.index),
        "ended": worker.ended,
        "usage": account,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "worker": step.worker,
        "step": step.number,
        "text": step.text,
        "sampled": step.num_sampled,
        "forced": step.num_forced,
        "reason": step.reason,
        "published": step.published,
    }


def _cache(transcript: Transcript) -> dict[str, int]:
    size = transcript.kv_bytes_per_token
    return {
        "tokens": transcript.cache_tokens,
        "separate_tokens": transcript.separate_tokens,
        "bytes": transcript.cache_tokens * size,
        "separate_bytes": transcript.separate_tokens * size,
    }
