"""Who sees what.  A layout is data: for each worker, the order of the blocks in its view.

A view is written as parts, in the order in which the worker reads them:

    "common"        the prompt, and in publishing layouts every published step
    "text:NAME"     a text that all workers share; it may stand in a view several times, as one block
    "label:NAME"    a text of its own for each worker: its template is filled with the worker's {name}
    "worker:INDEX"  the block that a certain worker writes
    others(...)     these parts once for each other worker, in ascending order; within it "author" is that
                    worker's block, and "label:NAME" its label
    "own"           the block that the worker itself writes: always last, once

Example, the paper's main layout:

    Layout("combined", publish=True, view=(
        "common", "text:in_progress", others("author", "text:separator"), "text:own_header", "own"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hogwild.errors import LayoutError

Which = Literal["all", "before", "after"]
_KINDS = ("common", "own", "author", "worker", "text", "label")


@dataclass(frozen=True, slots=True)
class Others:
    """`parts`, once for each other worker; `which` limits them to those before or after the viewing one."""

    parts: tuple[str, ...]
    which: Which = "all"


def others(*parts: str, which: Which = "all") -> Others:
    """These parts for each other worker, in ascending order."""
    return Others(parts, which)


View = tuple["str | Others", ...]


class BlockRef(NamedTuple):
    """One block of an expanded view: its kind, its text's name, and the worker that it belongs to (-1: all)."""

    kind: Literal["common", "own", "text", "label"]
    name: str = ""
    worker: int = -1


@dataclass(frozen=True, slots=True)
class Layout:
    """Who sees what.

    Attributes:
        name: how it is called in options and events.
        view: every worker's view.
        publish: whether finished steps move to the end of `common`.
        special_views: views of certain workers, by index, where they differ from `view`.
        texts: templates of the texts and labels that the prompt style does not give; a list gives each worker its own.
    """

    name: str
    view: View
    publish: bool = False
    special_views: Mapping[int, View] = field(default_factory=dict)
    texts: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for view in (self.view, *self.special_views.values()):
            _check_view(self.name, view)

    def view_of(self, worker: int) -> View:
        """The parts of one worker's view."""
        return self.special_views.get(worker, self.view)

    def expand(self, viewer: int, workers: Sequence[int]) -> tuple[BlockRef, ...]:
        """The blocks that `viewer` sees when `workers` (ascending indices, the viewer included) are there."""
        return tuple(self._expand(viewer, workers))

    def text_names(self, num_workers: int) -> frozenset[str]:
        """Every text and label that somebody's view names."""
        refs = (ref for w in range(num_workers) for ref in self.expand(w, range(num_workers)))
        return frozenset(ref.name for ref in refs if ref.kind in ("text", "label"))

    def shares(self, num_workers: int) -> bool:
        """Whether any worker reads another's text, unfinished or published."""
        if num_workers < 2:
            return False
        reads = (ref for w in range(num_workers) for ref in self.expand(w, range(num_workers)) if ref.worker != w)
        return self.publish or any(ref.kind == "own" for ref in reads)

    def check(self, num_workers: int, texts: Sequence[str]) -> None:
        """Raise `LayoutError` when a view reads a block that nobody writes."""
        for viewer in range(num_workers):
            for ref in self.expand(viewer, range(num_workers)):
                if ref.kind == "own" and not 0 <= ref.worker < num_workers:
                    raise LayoutError(
                        f"layout {self.name!r} reads the block of a worker that is not there",
                        expected=f"worker:0 to worker:{num_workers - 1}",
                        got=f"worker:{ref.worker}",
                        remedy="start more workers, or change the layout",
                    )
        unknown = sorted(self.text_names(num_workers) - set(texts))
        if unknown:
            raise LayoutError(
                f"layout {self.name!r} reads a block that nobody writes",
                expected=f"texts among {', '.join(sorted(texts)) or 'none'}",
                got=f"text {unknown[0]!r}",
                remedy=f"give the layout a text of that name: texts = {{'{unknown[0]}': '...'}}",
            )

    def _expand(self, viewer: int, workers: Sequence[int]) -> Iterator[BlockRef]:
        for part in self.view_of(viewer):
            if isinstance(part, Others):
                for other in workers:
                    if _included(part.which, viewer, other):
                        yield from (_resolve(inner, other) for inner in part.parts)
            else:
                yield _resolve(part, viewer)


def _included(which: Which, viewer: int, other: int) -> bool:
    return other != viewer and (which == "all" or (other < viewer) == (which == "before"))


def _resolve(part: str, worker: int) -> BlockRef:
    kind, _, name = part.partition(":")
    if kind == "common":
        return BlockRef("common")
    if kind == "text":
        return BlockRef("text", name)
    if kind == "label":
        return BlockRef("label", name, worker)
    return BlockRef("own", worker=int(name) if kind == "worker" else worker)


def _check_view(layout: str, view: View) -> None:
    flat = [part for part in view if isinstance(part, str)]
    inner = [part for part in view if isinstance(part, Others) for part in part.parts]
    for part in (*flat, *inner):
        _check_part(layout, part)
    if not view or view[-1] != "own" or flat.count("own") != 1 or "own" in inner:
        raise LayoutError(
            f"layout {layout!r} has no place to write", expected='"own" once, as the last part of a view', got=str(view)
        )
    if "author" in flat:
        raise LayoutError(f'layout {layout!r}: "author" stands outside others(...)', expected="own, worker:INDEX")


def _check_part(layout: str, part: str) -> None:
    kind, _, name = part.partition(":")
    good = kind in _KINDS and bool(name) == (kind in ("worker", "text", "label"))
    if not good or (kind == "worker" and not name.isdigit()):
        raise LayoutError(
            f"layout {layout!r} has a part that is not understood",
            expected="common, own, author, text:NAME, label:NAME or worker:INDEX",
            got=repr(part),
        )


_SEPARATED = others("author", "text:separator")

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "combined",
            publish=True,
            view=("common", "text:in_progress", _SEPARATED, "text:own_header", "own"),
        ),
        Layout("interleaved", publish=True, view=("common", "own")),
        Layout("contiguous", view=("common", _SEPARATED, "own")),
        Layout("independent", view=("common", "own")),
    )
}


def find_layout(name: str | Layout) -> Layout:
    """A layout by name, or from a JSON file (`*.json`); `LayoutError` when there is none."""
    if isinstance(name, Layout):
        return name
    if name in LAYOUTS:
        return LAYOUTS[name]
    if name.endswith(".json"):
        return layout_from_json(Path(name))
    raise LayoutError(f"there is no layout {name!r}", expected=f"{', '.join(LAYOUTS)}, or a file NAME.json", got=name)


def layout_from_json(path: Path) -> Layout:
    """Read a layout from a file; see `layout_from_dict` for its form."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutError(f"cannot read the layout {path}", got=error.strerror or str(error)) from None
    except ValueError as error:
        raise LayoutError(f"{path} is not a JSON file", got=str(error)) from None
    return layout_from_dict(data, name=path.stem)


def layout_from_dict(data: Any, name: str = "custom") -> Layout:
    """A layout from plain data: `{"view": ["common", {"others": ["author"]}, "own"], "publish": false}`."""
    known = {"name", "view", "publish", "special_views", "texts"}
    if not isinstance(data, dict) or "view" not in data or not set(data) <= known:
        raise LayoutError(
            "a layout is not understood",
            expected=f"an object with view and at most {', '.join(sorted(known - {'view'}))}",
            got=", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__,
        )
    texts = data.get("texts", {})
    specials = data.get("special_views", {})
    if not isinstance(texts, dict) or not isinstance(specials, dict) or not all(key.isdigit() for key in specials):
        raise LayoutError("a layout is not understood", expected="texts and special_views as objects")
    return Layout(
        name=str(data.get("name", name)),
        view=_view_from_data(data["view"]),
        publish=bool(data.get("publish", False)),
        special_views={int(index): _view_from_data(view) for index, view in specials.items()},
        texts={key: text if isinstance(text, str) else tuple(map(str, text)) for key, text in texts.items()},
    )


def layout_to_dict(layout: Layout) -> dict[str, Any]:
    """Plain data that `layout_from_dict` reads."""
    return {
        "name": layout.name,
        "view": _view_to_data(layout.view),
        "publish": layout.publish,
        "special_views": {str(index): _view_to_data(view) for index, view in layout.special_views.items()},
        "texts": {key: text if isinstance(text, str) else list(text) for key, text in layout.texts.items()},
    }


def _view_to_data(view: View) -> list[Any]:
    return [part if isinstance(part, str) else {"others": list(part.parts), "which": part.which} for part in view]


def _view_from_data(data: Any) -> View:
    if not isinstance(data, list):
        raise LayoutError("a view is not understood", expected="a list of parts", got=type(data).__name__)
    return tuple(_part_from_data(part) for part in data)


def _part_from_data(part: Any) -> str | Others:
    if isinstance(part, str):
        return part
    inner = part.get("others") if isinstance(part, dict) else None
    which = part.get("which", "all") if isinstance(part, dict) else None
    if not isinstance(inner, list) or which not in ("all", "before", "after"):
        raise LayoutError(
            "a part of a view is not understood",
            expected='a string, or {"others": [parts], "which": "all" | "before" | "after"}',
            got=repr(part),
        )
    return Others(tuple(str(item) for item in inner), which)
