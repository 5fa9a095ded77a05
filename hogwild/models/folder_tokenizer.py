"""Tokenizer and chat template of a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hogwild.errors import CheckpointError
from hogwild.models.chat import ChatTemplate
from hogwild.models.json_file import read_json
from hogwild.models.tokenizer import Tokenizer
from hogwild.models.vocabulary import is_steering

if TYPE_CHECKING:
    import tokenizers

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def load_tokenizer(folder: Path, config: Mapping[str, Any], generation_config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a folder's `tokenizer.json`, or one converted from `tokenizer.model` by transformers.

    Raises `CheckpointError` for missing or broken files.
    """
    settings = read_json(folder / "tokenizer_config.json") or {}
    named = _named_tokens(settings, read_json(folder / "special_tokens_map.json") or {})
    inner = _read_inner(folder, named)
    vocab_size = _vocab_size(config, inner)
    ends = [config.get("eos_token_id"), generation_config.get("eos_token_id")]
    if "eos_token" in named:
        ends.append(inner.token_to_id(named["eos_token"]))
    return Tokenizer(
        inner,
        vocab_size=vocab_size,
        eos_ids=[token_id for end in ends for token_id in _as_ids(end)],
        bos_ids=_bos_ids(inner, settings, named),
        chat_template=_template(folder, settings, named),
    )


def _read_inner(folder: Path, named: Mapping[str, str]) -> tokenizers.Tokenizer:
    import tokenizers

    state = read_json(folder / "tokenizer.json")
    if state is None:
        state = json.loads(_converted(folder).to_str())
    _mark_control(state, set(named.values()))
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(state))
    except Exception as error:  # the library has no narrower one
        raise CheckpointError(f"{folder / 'tokenizer.json'} is broken", got=str(error)[:200]) from error


def _mark_control(state: Mapping[str, Any], names: set[str]) -> None:
    """Mark every added token that steers the model as special, so that plain text never gives it."""
    added = state.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise CheckpointError("added_tokens of tokenizer.json is broken", expected="a list of objects")
    for token in added:
        content = str(token.get("content", ""))
        token["special"] = bool(token.get("special")) or content in names or is_steering(content)


def _converted(folder: Path) -> tokenizers.Tokenizer:
    if not any((folder / name).exists() for name in ("tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{folder} has no tokenizer", expected="tokenizer.json")
    try:
        from transformers import AutoTokenizer

        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        inner: tokenizers.Tokenizer = converted.backend_tokenizer
        return inner
    except Exception as error:  # what transformers raises here differs from version to version
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and its older tokenizer files cannot be converted",
            got=str(error)[:200],
            remedy="pip install transformers sentencepiece protobuf, or save the folder with its tokenizer.json",
        ) from error


def _named_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    named: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        for source in sources:
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and text:
                named.setdefault(name, text)
    return named


def _vocab_size(config: Mapping[str, Any], inner: tokenizers.Tokenizer) -> int:
    text_config = config.get("text_config")
    size = config.get("vocab_size", text_config.get("vocab_size") if isinstance(text_config, dict) else None)
    if size is None:
        return int(inner.get_vocab_size())
    if not isinstance(size, int) or size <= 0:
        raise CheckpointError("vocab_size of config.json is broken", expected="a count", got=repr(size)[:80])
    return size


def _bos_ids(inner: tokenizers.Tokenizer, settings: Mapping[str, Any], named: Mapping[str, str]) -> Sequence[int]:
    """What the post-processor puts before a text, unless `add_bos_token` says otherwise."""
    asked = settings.get("add_bos_token")
    if asked is False:
        return []
    plain = inner.encode("a", add_special_tokens=False).ids
    whole = inner.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if start and whole[start : start + len(plain)] == plain:
            return list(whole[:start])
    bos = inner.token_to_id(named["bos_token"]) if "bos_token" in named else None
    return [bos] if asked is True and bos is not None else []


def _template(folder: Path, settings: Mapping[str, Any], named: Mapping[str, str]) -> ChatTemplate | None:
    try:
        for name in ("chat_template.jinja", "chat_template.json"):
            path = folder / name
            if path.exists():
                text = path.read_text("utf-8")
                source = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
                return ChatTemplate(str(source), named)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the chat template in {folder} cannot be read", got=str(error)[:200]) from error
    source = settings.get("chat_template")
    if isinstance(source, list):
        templates = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = templates.get("default")
    return ChatTemplate(source, named) if isinstance(source, str) else None


def _as_ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [token_id for token_id in values if isinstance(token_id, int) and not isinstance(token_id, bool)]
