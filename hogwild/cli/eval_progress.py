"""How far an evaluation is: on stderr, as one moving line on a terminal, as a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hogwild.cli.console import remark
from hogwild.cli.units import seconds_text
from hogwild.eval.rows import Row

_EVERY_SECONDS = 10.0


class Progress:
    """Counts rows. `total`: of this run, or shard; `num_before`: rows that were there already."""

    def __init__(self, total: int, num_before: int) -> None:
        self._total, self._num_before = total, num_before
        self._num_new = self._num_failed = self._num_tokens = 0
        self._started = self._shown = time.monotonic()
        console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(console=console, get_renderable=self._line, transient=True, refresh_per_second=2)
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()
        remark(self.text())

    def count(self, row: Row) -> None:
        """One more row is stored."""
        self._num_new += 1
        self._num_failed += row.status == "failed"
        self._num_tokens += sum(row.tokens)
        is_last = self._num_before + self._num_new == self._total  # which `__exit__` says
        if not (self._is_live or is_last) and time.monotonic() - self._shown > _EVERY_SECONDS:
            self._shown = time.monotonic()
            remark(self.text())

    def text(self) -> str:
        """`12 of 96 sessions, 1 failed, 143 tokens/s, 3 min 20 s left`; the rate is that of finished sessions."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        left = self._total - self._num_before - self._num_new
        parts = [f"{self._num_before + self._num_new:,} of {self._total:,} sessions"]
        parts += [f"{self._num_before:,} of them from before"] if self._num_before else []
        parts += [f"{self._num_failed:,} failed"] if self._num_failed else []
        if self._num_new:
            rate = self._num_tokens / seconds
            parts.append(f"{rate:.{0 if rate >= 10 else 1}f} tokens/s")
            parts.append(f"{seconds_text(seconds / self._num_new * left)} left" if left else seconds_text(seconds))
        return ", ".join(parts)

    def _line(self) -> Text:
        return Text(self.text())
