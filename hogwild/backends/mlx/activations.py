"""The activation function that a model's config states, and the one that mlx-lm's file calls.

Some files have one written into them: the exact GELU where the model was trained with its tanh approximation (Gemma,
StarCoder2), or the other way round (GPT-NeoX). Which one a file calls is read from its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from hogwild.errors import ModelRefused

_Config = Mapping[str, Any]

_TANH = "gelu_pytorch_tanh"
_GELUS = {"gelu": "gelu", _TANH: "gelu_approx", "quick_gelu": "gelu_fast_approx"}  # names in `mlx.nn`
_CALLED = {called: kind for kind, called in _GELUS.items()} | {"silu": "silu", "swiglu": "silu", "SiLU": "silu"}
_STATED = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys((_TANH, "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), _TANH),
    **dict.fromkeys(("silu", "swish"), "silu"),
    **{name: name for name in ("quick_gelu", "relu", "relu2", "tanh")},
}


def stated_activation(text: _Config) -> str | None:
    """The kind that the config states; None if it states none, or one that is not known here."""
    name = text.get("hidden_activation") or text.get("activation_function") or text.get("hidden_act")
    if str(text.get("model_type")).startswith("gemma") and name == "gelu":
        return _TANH  # as transformers reads the first configs of these models
    return _STATED.get(str(name))


def called_activations(model: Any) -> set[str]:
    """The kinds that the code of the model's modules names."""
    classes = {type(module) for _, module in model.named_modules()}
    return {_CALLED[name] for cls in classes for code in _codes(cls) for name in code.co_names if name in _CALLED}


def put_activation_right(model: Any, text: _Config) -> None:
    """Have the model call the GELU that its config states. `ModelRefused` if it calls something else altogether."""
    stated, called = stated_activation(text), called_activations(model)
    if stated is None or not called or stated in called:
        return
    if stated not in _GELUS or not called <= _GELUS.keys():
        raise ModelRefused(
            "mlx-lm computes another model than its config states: another activation function",
            expected=stated,
            got=", ".join(sorted(called)),
            remedy="use another model or the cuda backend",
        )
    made: dict[type, type] = {}
    for _, module in model.named_modules():
        cls = type(module)
        if any(_GELUS[kind] in code.co_names for kind in called for code in _codes(cls)):
            module.__class__ = made.setdefault(cls, _calling(cls, _GELUS[stated]))


def _codes(cls: type) -> Iterator[CodeType]:
    call = vars(cls).get("__call__")
    if isinstance(call, FunctionType):
        yield call.__code__


def _calling(cls: type, gelu: str) -> type:
    """The class with another GELU in the place of each."""
    call: Any = cls.__call__
    names = tuple(gelu if name in _GELUS.values() else name for name in call.__code__.co_names)
    other = FunctionType(call.__code__.replace(co_names=names), call.__globals__, call.__name__, call.__defaults__)
    return type(cls.__name__, (cls,), {"__call__": other, "__module__": cls.__module__})
