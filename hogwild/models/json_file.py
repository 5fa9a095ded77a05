"""The JSON files of a model's folder: bounded, and broken ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hogwild.errors import CheckpointError

MAX_JSON_BYTES = 256_000_000


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file."""
    if not path.exists():
        return None
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is too large", expected=f"at most {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is broken", expected="JSON", got=str(error)[:200]) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is broken", expected="a JSON object", got=type(value).__name__)
    return value
