"""The space that some tokenizers put before a text, which belongs to beginnings only.

Tokenizers of the SentencePiece kind read "Hello" as " Hello". That is right where a text begins. Where it goes on from
tokens that stand already, as everything does that a worker writes, the space would be one too many.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers


def without_prefix(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer for text that goes on: neither adds the space when encoding nor drops it when decoding.

    It is `inner` itself where that does neither.
    """
    import tokenizers

    changed = {}
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        part = getattr(inner, name)
        state = None if part is None else json.loads(part.__getstate__())
        if (bare := _bare(state, name == "pre_tokenizer")) != state:
            changed[name] = bare
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(inner.to_str()) | changed)) if changed else inner


def prefixes_first_section_only(inner: tokenizers.Tokenizer) -> bool:
    """Whether text behind a control token gets no space, unlike the text's beginning."""
    if inner.pre_tokenizer is None:
        return False
    state = json.loads(inner.pre_tokenizer.__getstate__())
    return any(step.get("prepend_scheme") == "first" for step in [state, *state.get("pretokenizers", [])])


def _bare(state: dict[str, Any] | None, is_pre_tokenizer: bool) -> dict[str, Any] | None:
    """One step of a tokenizer without the space, or None where the step does nothing else."""
    if state is None or (state["type"] in ("Prepend", "Strip") and _concerns_beginning(state)):
        return None
    if state["type"] == "Sequence":
        key = next(key for key in ("normalizers", "pretokenizers", "decoders") if key in state)
        return state | {key: [bare for step in state[key] if (bare := _bare(step, is_pre_tokenizer)) is not None]}
    if state["type"] == "Metaspace":
        return state | {"prepend_scheme": "never"}
    if state["type"] == "ByteLevel" and is_pre_tokenizer:
        return state | {"add_prefix_space": False}
    return state


def _concerns_beginning(state: dict[str, Any]) -> bool:
    return bool(state["type"] == "Prepend" or state.get("start"))
