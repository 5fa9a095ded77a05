"""Several workers of one model think together over one shared attention cache.

High level: `load`, `solve` and `stream` for one problem, `Engine` for many at once. Low level: `SharedCache`, `Row`,
`Block`. Everything is imported when it is first used: `import hogwild` loads no array library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hogwild import errors as errors
    from hogwild.api import Result as Result
    from hogwild.api import solve as solve
    from hogwild.api import stream as stream
    from hogwild.cache import SharedCache as SharedCache
    from hogwild.core import events as events
    from hogwild.core.blocks import Block as Block
    from hogwild.core.layout import LAYOUTS as LAYOUTS
    from hogwild.core.layout import Layout as Layout
    from hogwild.core.layout import others as others
    from hogwild.core.options import SessionOptions as SessionOptions
    from hogwild.core.plan import Row as Row
    from hogwild.core.sampling import SampleRequest as SampleRequest
    from hogwild.core.sampling import SamplingParams as SamplingParams
    from hogwild.engine import Engine as Engine
    from hogwild.errors import HogwildError as HogwildError
    from hogwild.model import Model as Model
    from hogwild.model import load as load
    from hogwild.prompts import PromptStyle as PromptStyle

__version__ = "0.1.0"

_NAMES_IN = {
    "hogwild.api": ("Result", "solve", "stream"),
    "hogwild.cache": ("SharedCache",),
    "hogwild.core.blocks": ("Block",),
    "hogwild.core.layout": ("LAYOUTS", "Layout", "others"),
    "hogwild.core.options": ("SessionOptions",),
    "hogwild.core.plan": ("Row",),
    "hogwild.core.sampling": ("SampleRequest", "SamplingParams"),
    "hogwild.engine": ("Engine",),
    "hogwild.errors": ("HogwildError",),
    "hogwild.model": ("Model", "load"),
    "hogwild.prompts": ("PromptStyle",),
}
_MODULES = {"errors": "hogwild.errors", "events": "hogwild.core.events"}
_HOME = {name: module for module, names in _NAMES_IN.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hogwild' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
