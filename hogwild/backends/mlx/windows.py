"""Which window each layer has: what the model's config states, or else what mlx-lm's caches and masks show.

Who sees what is decided by the pool, not by mlx-lm's files. So a window that a file leaves out (Mixtral, Phi-3,
Gemma 2) or takes too short (MiMo) is the config's all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hogwild.errors import ModelRefused

_Config = Mapping[str, Any]

# Which layers have the window where the config does not list them: as these families were published.
_WINDOWED: Mapping[str, Callable[[int, _Config], bool]] = {
    **dict.fromkeys(("mistral", "mixtral", "phi3", "starcoder2"), lambda layer, text: True),
    "gemma2": lambda layer, text: layer % 2 == 0,
    **dict.fromkeys(("qwen2", "qwen3"), lambda layer, text: layer >= int(text.get("max_window_layers", 28))),
}


def choose_windows(measured: Sequence[tuple[int, int | None]], config: _Config, context_size: int) -> list[int | None]:
    """The window of each layer with attention; None where it sees the whole context.

    measured: numbers of layers, and the windows that mlx-lm's code shows. Raises `ModelRefused` if these and the
    config do not agree and nothing says which layers the config means.
    """
    text: _Config = config.get("text_config") or config
    stated = _stated(text)
    kinds, rule = text.get("layer_types"), _WINDOWED.get(str(text.get("model_type")))
    if stated is None:
        windows = [window for _, window in measured]
    elif kinds:
        windows = [stated if list(kinds[layer : layer + 1]) == ["sliding_attention"] else None for layer, _ in measured]
    elif rule is not None:
        windows = [stated if rule(layer, text) else None for layer, _ in measured]
    else:
        windows = [window for _, window in measured]
        if set(windows) - {None} != {stated} and stated < context_size:
            raise _other_window(stated, windows)
    return [window if window is not None and window < context_size else None for window in windows]


def _stated(text: _Config) -> int | None:
    if text.get("use_sliding_window") is False:
        return None
    if text.get("model_type") == "mimo_v2_flash":  # states how many tokens are seen beside the query's own
        return int(text["sliding_window_size"]) + 1 if text.get("sliding_window_size") else None
    return int(text["sliding_window"]) if text.get("sliding_window") else None


def _other_window(stated: int, found: Sequence[int | None]) -> ModelRefused:
    windows = sorted({window for window in found if window is not None})
    return ModelRefused(
        "the model's config has a sliding window that mlx-lm's code does not apply, and does not say in which layers",
        expected=f"windows of {stated} tokens",
        got=f"windows of {', '.join(map(str, windows))} tokens" if windows else "none",
        remedy="add layer_types to config.json, set sliding_window to null if the model was trained without it, or "
        "use the cuda backend",
    )
