"""Numbers as people read them."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """Bytes in binary units: `11.2 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def seconds_text(seconds: float) -> str:
    """A time: `0.84 s`, `14.5 s`, `3 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ratio_text(part: int, whole: int) -> str:
    """How many times `part` goes into `whole`: `1.8×`."""
    return f"{whole / part:.2f}×" if part else "–"
