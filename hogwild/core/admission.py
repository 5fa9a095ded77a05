"""Whether a problem can be taken on: its prompt fits the context, and its worst case fits the K/V pool."""

from __future__ import annotations

from hogwild.core.blocks import LONG_PAGES
from hogwild.core.options import SessionOptions
from hogwild.core.script import Script
from hogwild.errors import PromptError


def worker_pages(options: SessionOptions, script: Script, page_size: int) -> int:
    """Most pages that one worker can hold: its tokens, part-filled pages, the finisher and its forks.

    A step begins in what another one has left of its page. So there are no more part-filled pages than blocks that are
    written at once, but for those that the forks of a finisher leave behind, and steps that begin with many pages.
    """
    shortest_step = 1 + (len(script.header_ids(0, 2)) if options.layout.publish else 0)
    num_steps = options.max_tokens // shortest_step + 1 if options.layout.publish else 1
    num_steps = min(num_steps, options.max_passes + 1)
    num_forks = 2 * (len(options.budgets) + 1)
    part_filled = min(num_steps, 2 + num_forks + options.max_tokens // (LONG_PAGES * page_size)) + 3
    overshoot = len(script.header_ids(0, 1)) + len(script.step_end_ids()) + 1
    finisher = len(script.finish_ids()) + options.finisher_tokens
    labels = options.layout.text_names(options.num_workers)
    label_tokens = [len(script.label_ids(name, 0)) for name in labels]
    tokens = [options.max_tokens + overshoot, finisher, len(script.check_ids()), *label_tokens]
    return sum(-(-count // page_size) for count in tokens) + part_filled


def session_pages(options: SessionOptions, script: Script, num_prompt_tokens: int, page_size: int) -> int:
    """Most pages that a session can hold, so that they can be reserved when it is admitted."""
    return -(-num_prompt_tokens // page_size) + options.num_workers * worker_pages(options, script, page_size)


def check_prompt(num_tokens: int, context_size: int) -> None:
    """Raise `PromptError` when a prompt is empty or leaves no room to write."""
    if num_tokens == 0:
        raise PromptError("the prompt is empty", expected="at least one token", got="none")
    if num_tokens >= context_size:
        raise PromptError(
            "the prompt is longer than the model's context",
            expected=f"fewer than {context_size} tokens",
            got=f"{num_tokens} tokens",
            remedy="shorten the problem, or use a model with a longer context",
        )
