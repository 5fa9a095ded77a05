"""The events of a session that nobody has taken yet."""

from __future__ import annotations

from hogwild.core.events import Event


class EventLog:
    """Writes the events of one session; `pass_index` counts its decoding passes."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._events: list[Event] = []
        self.pass_index = 0

    def emit(self, kind: type[Event], **fields: object) -> None:
        """Write down an event of this pass (unless `fields` say another `pass_index`)."""
        common: dict[str, object] = {"session": self._session, "pass_index": self.pass_index}
        self._events.append(kind(**{**common, **fields}))  # type: ignore[arg-type]

    def drain(self) -> list[Event]:
        """The events since the last call, in order."""
        drained, self._events = self._events, []
        return drained
