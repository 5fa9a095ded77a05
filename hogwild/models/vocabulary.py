"""Facts of a vocabulary that `tokenizers` does not say directly: bytes behind tokens, which tokens are control."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

# Some authors leave these out of their special tokens, though they steer the model as those do.
_STEERING = re.compile(
    r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>"
    r"|</?(think|thinking|thought|reasoning|answer|tools?|tool_call|tool_response|function_calls?|begin_of_thought)>"
    r"|\[/?(THINK|INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHAR: Mapping[str, int] = _byte_alphabet()


def token_bytes(name: str) -> bytes:
    """The bytes that an entry of a byte-level vocabulary stands for."""
    try:
        return bytes([BYTE_OF_CHAR[char] for char in name])
    except KeyError:  # not of the alphabet: the decoder of `tokenizers` takes such an entry literally
        return name.encode()


def decoder_types(tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Types of the steps by which a tokenizer decodes, in order."""
    if tokenizer.decoder is None:
        return ()
    state: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return tuple(step["type"] for step in state.get("decoders", [state]))


def byte_token_ids(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """Tokens that are one byte each, as `<0x0A>`; empty where the tokenizer's decoder does not join them."""
    if "ByteFallback" not in decoder_types(tokenizer):
        return frozenset()
    ids = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(token_id for token_id in ids if token_id is not None)


def is_steering(text: str) -> bool:
    """Whether a token steers the model (end of thought, tool calls, turns), whatever its file calls it."""
    return _STEERING.fullmatch(text) is not None
