"""Running a session for a person: pass by pass, until it ends or Ctrl-C is pressed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

from hogwild.core.events import Event
from hogwild.core.session import Session
from hogwild.engine import Engine


class Interrupt:
    """Within it, the first Ctrl-C is only noted, so that the pass is completed; the second one breaks off."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interrupt:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def passes(engine: Engine, session: Session, interrupt: Interrupt) -> Iterator[list[Event]]:
    """The events of each pass; after Ctrl-C the last ones of the cancelled session."""
    yield session.drain()
    while not session.ended:
        yield engine.cancel() if interrupt.requested else engine.step()
