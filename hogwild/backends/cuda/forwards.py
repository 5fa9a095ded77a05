"""Other ways to compute some layers of a model, for the passes of one backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


class Forwards:
    """Forwards that take the place of the modules' own while `applied`; other users of the model see the model's."""

    def __init__(self, forwards: Iterable[tuple[nn.Module, Forward]] = ()) -> None:
        self._forwards = list(forwards)

    def __len__(self) -> int:
        return len(self._forwards)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the modules compute so."""
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward  # what nn.Module's own assignment does, in a tenth of its time
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.__dict__["forward"]
